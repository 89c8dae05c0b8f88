"""What ``legato triton`` hands to the serving process."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """How model repositories are served.

    Attributes:
        repositories: Folders of model folders.
        mode: ``none`` serves everything and changes nothing; ``explicit`` serves what clients
            ask for; ``poll`` follows changes of the files.
        load: ``explicit``: models to serve from the start; ``*`` alone = all.
        poll_s: ``poll``: seconds between looks at the files.
        exit_on_error: A model that cannot be served at the start stops the server.
        strict_readiness: Ready means that every model that should be served is.
        auto_complete: What a config leaves out is taken from the model file.
        config_name: ``<model>/configs/<name>.pbtxt`` is read where it is there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    repositories: tuple[Path, ...] = Field(min_length=1)
    mode: Literal["none", "explicit", "poll"] = "none"
    load: tuple[str, ...] = ()
    poll_s: float = Field(default=15.0, gt=0)
    exit_on_error: bool = True
    strict_readiness: bool = True
    auto_complete: bool = True
    config_name: str = ""
