"""A vLLM server with an adapter merged into a temporary copy of its base.

On a CPU, vLLM is several times slower with a separate LoRA adapter than without one. The copy is as large as the base,
and is removed after its last use. `adapters.merge` checks that the merged model agrees with the base and the adapter.
"""

import fcntl
import shutil
from dataclasses import replace
from pathlib import Path

from nanoflux_local.adapters.merge import find_base, merge, read_merge_record
from nanoflux_local.adapters.store import find_adapter, read_adapter
from nanoflux_local.config import EndpointConfig
from nanoflux_local.endpoints.managed.fleet import Fleet
from nanoflux_local.endpoints.managed.launches import assign_resources, make_launch
from nanoflux_local.endpoints.managed.vllm import VllmEndpoint
from nanoflux_local.errors import RefusedError
from nanoflux_local.paths import Home
from nanoflux_models.launch import Launch
from nanoflux_models.manifest import load_manifest


class MergedCopy:
    """A copy of an adapter's base with the adapter merged into it. Processes share the copy: the first process creates
    it, and the last process that calls `release` removes it. A process holds an exclusive lock while it creates or
    removes the copy, and a shared lock while it uses the copy.

    Raises:
        RefusedError: the adapter has no effect, the merged model disagrees with the base and the adapter, or the
            revision of the installed base is not the one on which the adapter was trained.
        UsageError: the base's weights are stored quantised.
    """

    def __init__(self, adapter: Path, home: Home) -> None:
        self.path = home.merged / adapter.name
        home.merged.mkdir(exist_ok=True)
        self._lock_file = home.lock(f"merged-{adapter.name}").open("w")
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        if not self.path.exists():
            record = read_adapter(adapter)
            merge(record, find_base(record, home.root), self.path)
        fcntl.flock(self._lock_file, fcntl.LOCK_SH)
        if not read_merge_record(self.path).check.has_effect:
            self.release()
            message = (
                f"adapter {adapter.name[:12]} has no effect: merging it changes the base no more than rounding does"
            )
            raise RefusedError(message, "train it again, or use another adapter")

    def release(self) -> None:
        """Remove the copy unless another process uses it. Safe to call twice."""
        if self._lock_file.closed:
            return
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self.path)
        except BlockingIOError:
            pass  # another process uses the copy
        self._lock_file.close()


class MergedEndpoint(VllmEndpoint):
    """A chat endpoint on a vLLM server whose weights contain a merged adapter. The identity names base and adapter;
    its variant ends in "merged".
    """

    def __init__(self, launch: Launch, adapter: Path, home: Home, reasoning_tokens: int | None = None) -> None:
        self._copy = MergedCopy(adapter, home)
        manifest = launch.manifest.model_copy(update={"name": f"{launch.model}-merged-{adapter.name[:12]}"})
        server = Fleet(home.root).server(replace(launch, manifest=manifest, weights=self._copy.path))
        super().__init__(server, reasoning_tokens=reasoning_tokens)
        self.identity = replace(
            self.identity, model=launch.model, adapter=adapter.name, variant=f"{launch.variant} merged"
        )

    async def close(self) -> None:
        await super().close()
        self._copy.release()


def build_merged_endpoint(config: EndpointConfig, home: Home) -> VllmEndpoint:
    """Build an endpoint on a vLLM server without LoRA modules; a configured adapter is merged into the weights.

    Raises:
        NanofluxError, ModelsError: vLLM, the weights or the adapter are missing, or they cannot be merged.
    """
    manifest = load_manifest(config.model, home.root).model_copy(update={"lora": None})
    resources, _sleep_group = assign_resources([manifest])[config.model]
    launch = replace(make_launch(config, home, resources, sleeps=False), manifest=manifest)
    if config.adapter:
        return MergedEndpoint(launch, find_adapter(home.adapters, config.adapter), home, config.reasoning_tokens)
    return VllmEndpoint(Fleet(home.root).server(launch), reasoning_tokens=config.reasoning_tokens)
