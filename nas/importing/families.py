"""Every family of pretrained transformers that can be imported, by the model_type of its config. Loads no torch."""

from __future__ import annotations

from nas.importing.debertas import DEBERTAS
from nas.importing.encoders import BERTS, IMAGE_ENCODERS
from nas.importing.gpts import GPTS
from nas.importing.llamas import LLAMAS

DECODERS = {**LLAMAS, **GPTS}
TEXT_ENCODERS = {**BERTS, **DEBERTAS}
FAMILIES = {**DECODERS, **TEXT_ENCODERS, **IMAGE_ENCODERS}
