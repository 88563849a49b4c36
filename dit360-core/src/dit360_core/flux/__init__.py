"""FLUX as diffusers has it: the only place that imports diffusers and transformers.

files: what must lie in a model folder, checked without loading. hub: fetching from the Hugging Face Hub. load: a folder
becomes an :class:`~dit360_core.flux.engine.Engine`. lora: fusing. processor: attention per module. shift: the time
shift. engine: prompts to embeddings, noise to velocity.
"""
