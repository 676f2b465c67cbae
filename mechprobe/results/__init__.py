"""What every result is: one labelled dataset and its provenance, saved as netCDF."""

from mechprobe.results.base import Result as Result
