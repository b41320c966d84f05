"""What a checkpoint's text files can do wrong.

InvalidRequest
└── TemplateFailed    the chat template refused the messages, or broke a limit
Unavailable
└── ModelFilesBroken  the tokenizer's files cannot be read
"""

from __future__ import annotations

from shoal_common.errors import InvalidRequest, Unavailable


class TemplateFailed(InvalidRequest):
    """The model's chat template cannot render these messages."""

    reason = "TEMPLATE_FAILED"

    def __init__(self, detail: str) -> None:
        super().__init__(f"the model's chat template failed: {detail}", param="messages")


class ModelFilesBroken(Unavailable):
    """A tokenizer or configuration file of the model is missing or malformed."""

    reason = "MODEL_FILES_BROKEN"
    retryable = False

    def __init__(self, file_name: str, detail: str) -> None:
        super().__init__(f"the model's {file_name} cannot be used: {detail}; import it again")
        self.file_name = file_name
