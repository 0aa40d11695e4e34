"""How the sinks misbehave: a temper says how often at each stage, and with what, drawn from a seeded generator."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

# acts: a code is a reply ("421" closes behind it); the others are
#   stall      wait, then go on as if nothing were
#   drop       close without a word           reset      the same by RST
#   garbage    a line that is no reply, then close
#   half       two digits of the reply, then close
#   take-close the good reply, then a proper close
#   take-reset the good reply, then RST: the peer may never read it
STAGES = ("greeting", "ehlo", "mail", "rcpt", "data", "body", "dot")


class Act(NamedTuple):
    """One misbehaviour and its share at its stage."""

    share: float
    name: str


@dataclass(frozen=True, slots=True)
class Temper:
    """One listener's: acts by stage; what their shares leave of 1 is good behaviour."""

    acts: dict[str, tuple[Act, ...]]
    longest_stall_s: float = 3.0
    calms: bool = True  # it behaves when told to

    def act(self, stage: str, chance: random.Random) -> str:
        """What happens at *stage* this time; "" is what should."""
        point = chance.random()
        for act in self.acts.get(stage, ()):
            point -= act.share
            if point < 0:
                return act.name
        return ""


def _temper(calms: bool = True, longest_stall_s: float = 3.0, **stages: dict[str, float]) -> Temper:
    acts = {stage: tuple(Act(share, name) for name, share in names.items()) for stage, names in stages.items()}
    return Temper(acts, longest_stall_s, calms)


CUTS = {"drop": 0.02, "reset": 0.02, "garbage": 0.01, "half": 0.01}
TEMPERS: dict[str, Temper] = {
    "kind": _temper(),
    "slow": _temper(longest_stall_s=1.5, **{stage: {"stall": 0.06} for stage in STAGES}),  # a kill often finds it in the middle
    "defers": _temper(mail={"451": 0.04}, rcpt={"450": 0.08, "452": 0.04}, data={"451": 0.04}, dot={"451": 0.06, "421": 0.02}),
    "refuses": _temper(mail={"550": 0.03}, rcpt={"550": 0.1, "552": 0.02}, data={"554": 0.03}, dot={"554": 0.05}),
    "drops": _temper(greeting={"drop": 0.02, "421": 0.01}, ehlo=CUTS, mail=CUTS, rcpt=CUTS, data=CUTS, body=CUTS, dot=CUTS),
    "lies": _temper(
        data={"250": 0.01},
        dot={"drop": 0.04, "reset": 0.03, "take-reset": 0.04, "take-close": 0.06, "half": 0.03, "garbage": 0.03, "354": 0.02},
    ),
    "mad": _temper(
        greeting={"554": 0.01, "421": 0.01, "drop": 0.01, "stall": 0.02},
        ehlo={"502": 0.02, "421": 0.01, "stall": 0.02},
        mail={"451": 0.02, "550": 0.01, "421": 0.02, "drop": 0.01},
        rcpt={"450": 0.03, "550": 0.03, "452": 0.03, "421": 0.01, "garbage": 0.01},
        data={"451": 0.02, "554": 0.01, "reset": 0.01, "stall": 0.02},
        body={"drop": 0.01, "reset": 0.01, "stall": 0.02},
        dot={"451": 0.03, "554": 0.02, "421": 0.02, "drop": 0.03, "reset": 0.02, "take-reset": 0.02, "take-close": 0.03, "stall": 0.04},
    ),
    # reports go here: it never refuses for good, so that each has to arrive
    "senders": _temper(rcpt={"450": 0.03}, dot={"451": 0.03, "drop": 0.02, "reset": 0.02, "take-reset": 0.02, "stall": 0.02}),
    "never": _temper(calms=False, rcpt={"450": 1.0}),
}
"""name -> Temper; the destination of a name is NAME.example."""
