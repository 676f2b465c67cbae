"""What driving and drawing street maps gives: detours, and maps of a model's walks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from mechprobe.provenance import Provenance
from mechprobe.results.base import Result
from mechprobe.stats import share_interval

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False, eq=False)
class Detours(Result):
    """How often a model still arrives when it is pushed off its way.

    ``data`` holds over ``p``: ``success`` with ``_low`` and ``_high`` (trips are
    independent), ``navigator`` (the share that a driver who knows the map reaches with the same
    detours; also with bounds), ``n_detours`` (per trip); ``outcome_share`` (p, outcome); ``n_trips``.
    """

    kind: ClassVar[str] = "detours"
    papers: ClassVar[tuple[str, ...]] = ("vafa2024worldmodel",)

    def plot(self, kind: str = "curve") -> "go.Figure":
        """Draw the share of trips that arrive against p (``"curve"``) or why not (``"outcomes"``).

        Raises:
            ValueError: An unknown kind.
        """
        from mechprobe.plots import world_curves as plots

        name = str(self.provenance.model.get("name", ""))
        forced = str(self.provenance.arguments.get("kind", ""))
        return plots.detours_figure(self.data, kind, name, forced)

    def summary(self) -> "pd.DataFrame":
        """Return one row per p."""
        names = ["success", "success_low", "success_high", "navigator", "n_detours"]
        return self.data[names].to_dataframe()


def detours_of(
    model: tuple[Int[np.ndarray, "p trip"], Int[np.ndarray, "p trip"]],
    navigator: tuple[Int[np.ndarray, "p trip"], Int[np.ndarray, "p trip"]],
    p: Float[np.ndarray, " p"],
    outcomes: Sequence[str],
    provenance: Provenance,
) -> Detours:
    """Put trips together.

    Args:
        model: Outcome of every trip, the first of ``outcomes`` being success, and its detours.
        navigator: The same for a driver who knows the map.
        p: Probabilities of a detour.
        outcomes: Names of the outcomes.
        provenance: What made them.
    """
    n_trips = model[0].shape[1]
    data = xr.Dataset(
        {"n_detours": ("p", model[1].mean(axis=1)), "n_trips": n_trips},
        coords={"p": p, "outcome": np.array(outcomes, dtype=object)},
    )
    for name, (outcome, _) in (("success", model), ("navigator", navigator)):
        arrived = (outcome == 0).sum(axis=1).tolist()
        bounds = np.array([share_interval(k, n_trips) for k in arrived])
        for i, end in enumerate(("", "_low", "_high")):
            data[f"{name}{end}"] = ("p", bounds[:, i])
    shares = [(model[0] == i).mean(axis=1) for i in range(len(outcomes))]
    data["outcome_share"] = (("p", "outcome"), np.stack(shares, axis=1))
    return Detours(data, provenance)


TRUE, INVENTED = "true", "invented"


@dataclass(frozen=True, repr=False, eq=False)
class MapReconstruction(Result):
    """The map that walks imply, against the true one.

    ``data`` holds ``n_walks``, ``n_valid`` (they arrive on the true map), ``n_failed`` (no map
    within the limits explains them), ``n_true`` streets of the true map, ``n_true_used``,
    ``n_invented``, ``edge_precision`` = true used / (true used + invented), ``edge_recall`` = true
    used / true, ``n_through``: invented streets that run through a true street; over ``street``,
    those used: ``source`` and ``target`` (indices of nodes), ``direction``, ``street_kind``
    (``"true"``, ``"invented"``), ``through``; over ``unused``, true streets that no walk took:
    ``unused_source``, ``unused_target``; over ``reason``: ``n_failed_for``; and over ``node``:
    ``x``, ``y``, where to draw it.
    """

    kind: ClassVar[str] = "map_reconstruction"
    papers: ClassVar[tuple[str, ...]] = ("vafa2024worldmodel",)

    def plot(self, kind: str = "map") -> "go.Figure":
        """Draw the map: true streets, invented ones, and those that run through true streets.

        Raises:
            ValueError: An unknown kind; the only one is ``"map"``.
        """
        from mechprobe.plots import world_map as plots

        return plots.map_figure(self.data, kind, str(self.provenance.model.get("name", "")))

    def summary(self) -> "pd.DataFrame":
        """Return one row: walks, streets, precision and recall."""
        import pandas as pd

        counts = {name: int(self.data[name]) for name in _COUNTS}
        shares = {name: float(self.data[name]) for name in ("edge_precision", "edge_recall")}
        return pd.DataFrame([counts | shares], index=[str(self.provenance.model.get("name", ""))])

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per street in use, with the names of its nodes."""
        d = self.data
        frame = d[["source", "direction", "target", "street_kind", "through"]].to_dataframe()
        names = d["node"].values
        frame["source"], frame["target"] = names[frame["source"]], names[frame["target"]]
        return frame.reset_index(drop=True)


_COUNTS = ("n_walks", "n_valid", "n_failed", "n_true", "n_true_used", "n_invented", "n_through")


def reconstruction_of(
    used: Int[np.ndarray, "node direction"],
    true: Int[np.ndarray, "node direction"],
    names: tuple[Sequence[str], Sequence[str]],
    drawn: tuple[Float[np.ndarray, "node 2"], str],
    valid: Bool[np.ndarray, " walk"],
    reasons: np.ndarray,
    provenance: Provenance,
) -> MapReconstruction:
    """Put a reconstruction together.

    Args:
        used: Streets in use: the neighbor, -1 for none.
        true: Streets of the true map.
        names: Of nodes, and of directions.
        drawn: Where each node is drawn, and where that comes from.
        valid: Which walks arrive on the true map.
        reasons: Why a walk failed, "" where it did not.
        provenance: What made them.
    """
    source, way = np.nonzero(used >= 0)
    target = used[source, way]
    real = true[source, way] == target
    rest, rest_way = np.nonzero((true >= 0) & (true != used))
    places, origin = drawn
    u, w = np.nonzero(true >= 0)
    through = np.zeros(len(source), dtype=np.bool_)
    through[~real] = run_through(places, np.c_[source, target][~real], np.c_[u, true[u, w]])
    kinds, counts = np.unique(reasons[reasons != ""].astype(str), return_counts=True)
    walks = {"n_walks": len(valid), "n_valid": int(valid.sum()), "n_failed": int((reasons != "").sum())}
    labels = np.array(names[1], dtype=object)
    data = xr.Dataset(
        walks
        | _street_counts(real, through, len(u))
        | {
            "source": ("street", source),
            "target": ("street", target),
            "direction": ("street", labels[way]),
            "street_kind": ("street", np.where(real, TRUE, INVENTED).astype(object)),
            "through": ("street", through.astype(np.int8)),
            "unused_source": ("unused", rest),
            "unused_target": ("unused", true[rest, rest_way]),
            "n_failed_for": ("reason", counts.astype(np.int64)),
            "x": ("node", places[:, 0]),
            "y": ("node", places[:, 1]),
        },
        coords={"node": np.array(names[0], dtype=object), "reason": kinds.astype(object)},
    )
    data["x"].attrs["long_name"] = origin
    return MapReconstruction(data, provenance)


def _street_counts(
    real: Bool[np.ndarray, " street"], through: Bool[np.ndarray, " street"], n_true: int
) -> dict[str, Any]:
    """Count streets in use, by whether they are real and whether they run through real ones."""
    n_used = int(real.sum())
    return {
        "n_true": n_true,
        "n_true_used": n_used,
        "n_invented": len(real) - n_used,
        "n_through": int(through.sum()),
        "edge_precision": n_used / len(real) if len(real) else float("nan"),
        "edge_recall": n_used / n_true,
    }


def run_through(
    places: Float[np.ndarray, "node 2"],
    streets: Int[np.ndarray, "street 2"],
    others: Int[np.ndarray, "other 2"],
) -> Bool[np.ndarray, " street"]:
    """Return which straight streets cross another one between its ends.

    Streets that share a node do not cross.
    """
    out = np.zeros(len(streets), dtype=np.bool_)
    c, d = places[others[:, 0]], places[others[:, 1]]
    for i, (p, q) in enumerate(streets.tolist()):
        a, b = places[p], places[q]
        # Both ends of the other street on different sides of this one, and the reverse.
        apart = (_left(a, b, c) * _left(a, b, d) < 0) & ((others != p) & (others != q)).all(axis=1)
        e, f = c[apart], d[apart]
        out[i] = bool((_left(e, f, a) * _left(e, f, b) < 0).any())
    return out


def _left(
    a: Float[np.ndarray, "*n 2"], b: Float[np.ndarray, "*n 2"], c: Float[np.ndarray, "*k 2"]
) -> Float[np.ndarray, "..."]:
    """Return how far each c lies to the left of the line from a to b; negative for right."""
    ab, ac = b - a, c - a
    return ab[..., 0] * ac[..., 1] - ab[..., 1] * ac[..., 0]
