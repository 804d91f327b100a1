"""Redfish: the power switch in a server's management controller (DMTF DSP0266), through the library sushy."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import requests
import sushy
from sushy.exceptions import SushyError

from compute.fencing.base import EVIDENCE_CHARACTERS, FenceFailed, Target

POLL_SECONDS = 0.5
ASK_SECONDS = 10  # for one answer of the controller


@dataclass(frozen=True, slots=True)
class RedfishFence:
    """ForceOff for one system, then its PowerState is read until it says Off. `verify`: True, or a CA's file."""

    url: str
    system: str
    username: str
    password: str = field(repr=False)
    verify: bool | str = True
    seconds: float = 60.0

    def power_off(self, target: Target) -> str:
        """See FenceDriver.power_off."""
        deadline = time.monotonic() + self.seconds
        try:
            system = self._open()
            if system.power_state != sushy.PowerState.OFF:
                system.reset_system(sushy.ResetType.FORCE_OFF)
            while True:
                system.refresh(force=True)
                if system.power_state == sushy.PowerState.OFF:
                    return f"{self.url}{self.system} says PowerState Off"[:EVIDENCE_CHARACTERS]
                if time.monotonic() >= deadline:
                    raise FenceFailed(f"{self.url}{self.system} still says {_word(system.power_state)}")
                time.sleep(POLL_SECONDS)
        except (SushyError, requests.RequestException) as error:
            # Of the error only its kind: its text may quote what was sent.
            raise FenceFailed(f"{self.url}{self.system} cannot be asked: {type(error).__name__}") from None

    def _open(self) -> Any:
        connection = sushy.Sushy(
            self.url,
            auth=sushy.auth.BasicAuth(username=self.username, password=self.password),
            verify=self.verify,
            server_side_retries=0,
            connect_timeout=ASK_SECONDS,
            read_timeout=ASK_SECONDS,
        )
        return connection.get_system(self.system)


def _word(state: Any) -> str:
    return str(getattr(state, "value", state))
