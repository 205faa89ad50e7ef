"""T5X's checkpoints: its legacy format and what it writes by Orbax, in both of its layouts."""

from flan_jax.checkpoints.t5x.config_gin import (
    T5XConfig,
    read_t5x_config,
    write_t5x_config,
)
from flan_jax.checkpoints.t5x.folder import (
    create_t5x_legacy,
    create_t5x_orbax,
    open_t5x,
    t5x_format,
)
from flan_jax.checkpoints.t5x.layout import (
    is_scanned,
    layout_infos,
    optimizer_problem,
    t5x_layout,
)

__all__ = [
    "T5XConfig",
    "create_t5x_legacy",
    "create_t5x_orbax",
    "is_scanned",
    "layout_infos",
    "open_t5x",
    "optimizer_problem",
    "read_t5x_config",
    "t5x_format",
    "t5x_layout",
    "write_t5x_config",
]
