"""Checkpoints: reading and writing every format, tensor by tensor, and as pytrees."""

from jaxmerge.checkpoint.errors import (
    CheckpointError as CheckpointError,
    RecipeError as RecipeError,
)
from jaxmerge.checkpoint.execute import Progress as Progress
from jaxmerge.checkpoint.grams import Grams as Grams, gram as gram
from jaxmerge.checkpoint.hub import resolve_model as resolve_model
from jaxmerge.checkpoint.merge import Report as Report, merge as merge
from jaxmerge.checkpoint.names import (
    flatten_names as flatten_names,
    unflatten_names as unflatten_names,
)
from jaxmerge.checkpoint.peft import (
    Adapter as Adapter,
    LoraPair as LoraPair,
    lora_delta as lora_delta,
    lora_pairs as lora_pairs,
    read_adapter as read_adapter,
)
from jaxmerge.checkpoint.plan import Plan as Plan
from jaxmerge.checkpoint.planning import make_plan as make_plan
from jaxmerge.checkpoint.recipe_yaml import load_recipe as load_recipe
from jaxmerge.checkpoint.safetensors import (
    SafetensorsFile as SafetensorsFile,
    SafetensorsWriter as SafetensorsWriter,
)
from jaxmerge.checkpoint.sink import (
    Sink as Sink,
    default_kind as default_kind,
    open_sink as open_sink,
)
from jaxmerge.checkpoint.source import Source as Source, open_source as open_source
from jaxmerge.checkpoint.statistics import (
    fingerprint as fingerprint,
    load_statistics as load_statistics,
    open_statistics as open_statistics,
    save_statistics as save_statistics,
    statistics_path as statistics_path,
)
from jaxmerge.checkpoint.tasks import (
    load_task as load_task,
    merge_tasks as merge_tasks,
)
from jaxmerge.checkpoint.tensor_info import TensorInfo as TensorInfo
from jaxmerge.checkpoint.tree import load as load, save as save
