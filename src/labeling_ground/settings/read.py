"""Reading the settings of the environment, and saying in sentences what is wrong with them."""

import difflib
import os
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from labeling_ground.errors import BadSettings
from labeling_ground.settings.fields import ENV_PREFIX
from labeling_ground.settings.reference import example_of
from labeling_ground.settings.settings import Settings

TEST_PREFIX = f"{ENV_PREFIX}TEST_"
"""Variables of this project's tests: no settings, and let pass."""
SHORTEST_KEY = 8
"""Characters below which a key is taken for a mistake, such as a variable that was not filled in."""
SECRETS = frozenset({"api_keys", "admin_key", "redis_url", "label_studio_api_key"})
"""Settings whose value is never repeated."""
MAY_HOLD_SECRETS = frozenset(
    {
        "encoder_url",
        "decoder_url",
        "encoder_management_url",
        "decoder_management_url",
        "label_studio_url",
        "nuclio_url",
        "models_mirror",
    }
)
"""Settings whose value is repeated only where there is no sign of a key in it."""
_NO_LINKS = "set enableServiceLinks: false in the pod, or call the service something else than labeling-ground"


def read_settings(**given: Any) -> Settings:
    """The settings of the environment, with those that are given in their place.

    Raises:
        BadSettings: a variable is none of the settings, or a value cannot be used. The sentences say which, what is
            right, and no secret.
    """
    if unknown := _unknown_variables(os.environ):
        raise BadSettings(" ".join(unknown))
    try:
        settings = Settings(**given)
    except ValidationError as error:
        # Where one setting's default follows from another one, that is not made up, and is no fault of its own.
        found = [each for each in error.errors() if each["type"] != "default_factory_not_called"]
        raise BadSettings(" ".join(_what_is_wrong(each) for each in found)) from None
    for name, secrets in (("api_keys", settings.api_keys), ("admin_key", (settings.admin_key,))):
        if any(secret is not None and len(secret.get_secret_value()) < SHORTEST_KEY for secret in secrets):
            raise BadSettings(
                f"A key in the setting {name} ({ENV_PREFIX}{name.upper()}) is too short to be one: give each "
                f"{SHORTEST_KEY} characters or more, hard to guess; 'openssl rand -hex 24' makes one. To have no key, "
                "leave the variable out."
            )
    return settings


def _unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that is meant to be a setting and is none."""
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}

    def nearest(upper: str) -> list[str]:
        if not upper.startswith(ENV_PREFIX):  # a slip in the prefix would be overlooked as silently
            return difflib.get_close_matches(upper, known, n=1, cutoff=0.92)
        suffix = upper.removeprefix(ENV_PREFIX)
        near = difflib.get_close_matches(suffix, [each.removeprefix(ENV_PREFIX) for each in known], n=1)
        return [f"{ENV_PREFIX}{name}" for name in near]

    sentences = []
    for name in sorted(environment):
        upper = name.upper()
        if upper in known or upper.startswith(TEST_PREFIX) or not environment[name].strip():
            continue
        is_ours = upper.startswith(ENV_PREFIX)
        near = nearest(upper)
        if is_ours and re.search(r"_(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP)(_\w+)?)$", upper):
            sentences.append(f"{name} was made by Kubernetes for a service: {_NO_LINKS}.")
        elif is_ours and len(upper) == len(ENV_PREFIX):
            sentences.append(f"{name} has no name behind the prefix: docs/settings.md lists the settings.")
        elif is_ours or near:
            advice = f"did you mean {near[0]}?" if near else "docs/settings.md lists them."
            sentences.append(f"{name} is no setting: {advice}")
    return sentences


def _what_is_wrong(error: ErrorDetails) -> str:
    """One of pydantic's findings as a sentence."""
    name = str(error["loc"][0])
    if name not in Settings.model_fields:
        return f"There is no setting {name}."
    value, variable = error["input"], f"{ENV_PREFIX}{name.upper()}"
    is_secret = name in SECRETS or (name in MAY_HOLD_SECRETS and ("@" in str(value) or "?" in str(value)))
    shown = "what it is (not shown: it may hold a secret)" if is_secret else f"{str(value)[:80]!r}"
    why = error["msg"].removeprefix("Value error, ").removeprefix("Input ").rstrip(".")
    if name == "port" and str(value).startswith("tcp://"):
        why += f" (Kubernetes made this one for a service: {_NO_LINKS})"
    return f"The setting {name} ({variable}) cannot be {shown}: {why}. For instance: {variable}={example_of(name)}"
