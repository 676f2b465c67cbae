"""Pure typed tensor kernels: tensors in, tensors out, no model and no file in sight."""

from mechprobe.kernels.gemm import fastest_gemm as fastest_gemm
from mechprobe.kernels.readout import Readout as Readout
from mechprobe.kernels.readout import readout as readout
from mechprobe.kernels.topk import top_k as top_k
from mechprobe.kernels.vocabulary import nearest_columns as nearest_columns
