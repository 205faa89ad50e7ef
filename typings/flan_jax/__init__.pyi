# Beside the link to mixtures/: without this file pyright would take `import flan_jax` for a folder.
__version__: str
__file__: str
__path__: list[str]
