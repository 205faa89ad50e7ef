"""flan_jax: instruction-finetuning language models in JAX.

Importing this package is cheap: it loads neither JAX nor TensorFlow.
"""

from pathlib import Path as _Path

__version__ = "0.1.0"

# `gin/`, `mixtures/` and `launch/` live at the top of the repository and are installed as
# `flan_jax.gin`, `flan_jax.mixtures` and `flan_jax.launch`. In a checkout or an editable install
# they are not below this folder, so the repository root joins the package's search path.
_ROOT = _Path(__file__).resolve().parent.parent
if (_ROOT / "setup.py").is_file() and (_ROOT / "mixtures").is_dir():
    __path__.append(str(_ROOT))
