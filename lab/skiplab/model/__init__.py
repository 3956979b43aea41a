"""A whole model: its shape from a Hugging Face config, its weights, and a decoder made of blockskip's calls."""

from skiplab.model.config import LayerSpec, ModelSpec, model_names
from skiplab.model.decoder import Decoder
from skiplab.model.generate import Drafts, Generated, generate

__all__ = ["Decoder", "Drafts", "Generated", "LayerSpec", "ModelSpec", "generate", "model_names"]
