"""The one place that knows how models are built: loading, running, reading out, checking."""

from mechprobe.models.check import ModelCheck as ModelCheck
from mechprobe.models.check import check_model as check_model
from mechprobe.models.identity import describe as describe
from mechprobe.models.load import load_model as load_model
from mechprobe.models.packaged import FetchError as FetchError
from mechprobe.models.prompts import Batch as Batch
from mechprobe.models.prompts import Prompts as Prompts
from mechprobe.models.prompts import batches as batches
from mechprobe.models.prompts import chat_prompt as chat_prompt
from mechprobe.models.prompts import token_ids as token_ids
from mechprobe.models.protocol import Model as Model
from mechprobe.models.protocol import model_name as model_name
from mechprobe.models.protocol import tokenizer_of as tokenizer_of
from mechprobe.models.run import Run as Run
from mechprobe.models.run import run as run
from mechprobe.models.support import require_encodable as require_encodable
from mechprobe.models.support import require_kv_cache as require_kv_cache
from mechprobe.models.support import require_model as require_model
from mechprobe.models.support import require_tokenizer as require_tokenizer
from mechprobe.models.text import TokenText as TokenText
from mechprobe.models.text import storable as storable
from mechprobe.models.unembed import Unembedding as Unembedding
from mechprobe.models.unembed import unembedding as unembedding
