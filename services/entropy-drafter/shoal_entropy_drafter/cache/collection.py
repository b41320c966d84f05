"""How the points of a collection are laid out, whoever holds them."""

from __future__ import annotations

from dataclasses import dataclass

from shoal_entropy_drafter.errors import DimensionsDiffer, EmbeddingModelDiffers

SCOPE = "scope"
TENANT = "tenant"
MODEL = "model"
EXPIRES_AT = "expires_at"
KEYWORDS = (TENANT, MODEL)
EMBEDDING_MODEL = "embedding_model"


@dataclass(frozen=True)
class Collection:
    """Its name, the numbers of each vector, and the model that makes them."""

    name: str
    dimensions: int
    embedding_model: str

    def check(self, dimensions: int, embedding_model: str) -> None:
        """Raise DimensionsDiffer or EmbeddingModelDiffers where the one found is another.

        embedding_model: "" where it is not known.
        """
        if dimensions != self.dimensions:
            raise DimensionsDiffer(self.name, dimensions, self.dimensions)
        if embedding_model and embedding_model != self.embedding_model:
            raise EmbeddingModelDiffers(self.name, embedding_model, self.embedding_model)
