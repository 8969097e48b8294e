"""The local embedder: sentence vectors from a weights folder, one text at a time. It downloads nothing.

Texts are not batched, so that a vector depends only on its text. A text that is longer than the model's input is split
into windows, and the vectors of the windows are averaged, so that no part of the text is ignored.
"""

import asyncio
import threading
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nanoflux_local.endpoints.local.cores import share_cores
from nanoflux_local.endpoints.local.in_process import read_name_and_revision
from nanoflux_local.errors import EndpointError
from nanoflux_local.records import EmbedReply, EmbedRequest, Identity, Vector
from nanoflux_models.offline import go_offline


class LocalEmbedder:
    """Unit-length float32 vectors of texts. The model is loaded when the first text arrives."""

    def __init__(self, weights: Path) -> None:
        self._weights = weights
        self._lock = threading.Lock()
        name, revision = read_name_and_revision(weights)
        self.identity = Identity(
            interface="in_process_embedder",
            model=name,
            revision=revision,
            variant="cpu float32 single",
        )

    @property
    def dimensions(self) -> int:
        """The number of elements of a vector."""
        with self._lock:
            return int(self._model.get_embedding_dimension())

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """Return the vector of one text.

        Raises:
            EndpointError: the model cannot be loaded.
        """
        return EmbedReply.of(await asyncio.to_thread(self._embed_text, request.text))

    async def close(self) -> None:
        return

    def _embed_text(self, text: str) -> Vector:
        """The vector of a text; for a text of several windows, the mean of the windows' vectors, scaled to length 1."""
        encodable_text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        with self._lock:
            vectors = [self._encode(window) for window in self._split_windows(encodable_text)]
        if len(vectors) == 1:
            return vectors[0]
        mean = np.mean(np.stack(vectors), axis=0, dtype=np.float64)
        return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)

    def _encode(self, text: str) -> Vector:
        vector = self._model.encode(text, convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vector, dtype=np.float32)

    def _split_windows(self, text: str) -> Iterator[str]:
        """Split a text at token boundaries into windows of the model's input length."""
        tokenizer = self._model.tokenizer
        window_tokens = self._model.max_seq_length - tokenizer.num_special_tokens_to_add()
        offsets = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
        )["offset_mapping"]
        if len(offsets) <= window_tokens:
            yield text
            return
        for start in range(0, len(offsets), window_tokens):
            window_offsets = offsets[start : start + window_tokens]
            first_char, end_char = window_offsets[0][0], window_offsets[-1][1]
            yield text[first_char:end_char]

    @cached_property
    def _model(self) -> Any:
        """The `SentenceTransformer`.

        Raises:
            EndpointError: the model cannot be loaded.
        """
        go_offline()
        share_cores()
        from sentence_transformers import SentenceTransformer

        try:
            return SentenceTransformer(str(self._weights), device="cpu", local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            fix = f"check the weights with `nanoflux models verify {self.identity.model}`"
            raise EndpointError(f"{self._weights}: the embedder cannot be loaded: {error}", fix) from error
