"""Questions with known answers: generators, loaders, and what shortcuts score on them."""

from mechprobe.tasks.audit import Audit as Audit
from mechprobe.tasks.audit import audit as audit
from mechprobe.tasks.choice import permuted as permuted
from mechprobe.tasks.choice import rotated as rotated
from mechprobe.tasks.choice import select_and_copy as select_and_copy
from mechprobe.tasks.debias import debiased as debiased
from mechprobe.tasks.design import Design as Design
from mechprobe.tasks.hub import from_hub as from_hub
from mechprobe.tasks.layout import choice_example as choice_example
from mechprobe.tasks.layout import logic_example as logic_example
from mechprobe.tasks.load import load as load
from mechprobe.tasks.ontology import ontology as ontology
from mechprobe.tasks.task import Example as Example
from mechprobe.tasks.task import Option as Option
from mechprobe.tasks.task import Span as Span
from mechprobe.tasks.task import Task as Task
