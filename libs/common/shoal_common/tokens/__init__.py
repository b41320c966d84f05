"""From messages to token ids and back: chat templates, tokenisers, stop strings.

Owns how a checkpoint's own template is run without trusting it, and the text side of a stream of
token ids. Does not know where the files come from, nor what a request is.
"""

from shoal_common.tokens.detokenizer import Detokenizer
from shoal_common.tokens.errors import TemplateFailed
from shoal_common.tokens.model_tokens import ModelTokens
from shoal_common.tokens.stop import StopChecker
from shoal_common.tokens.templates import TemplateRenderer

__all__ = ["Detokenizer", "ModelTokens", "StopChecker", "TemplateFailed", "TemplateRenderer"]
