"""`neuromeld list architectures --probe MODEL`: what a model is, what was proved of it, and what that allows."""

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from neuromeld.errors import UnsupportedModelError

if TYPE_CHECKING:
    from neuromeld.archs.probe import Probe
    from neuromeld.discovery.lookup import Discovery


@dataclass(frozen=True)
class Allowed:
    """The stages that a model can be given, and why it cannot be given the others; `refused` where it gets none."""

    stages: list[str]
    reasons: dict[str, str]
    refused: str | None = None


def show_probe(name: str, *, as_json: bool) -> None:
    """Print it."""
    from neuromeld.archs.probe import probe
    from neuromeld.checkpoint.source import locate
    from neuromeld.discovery.lookup import discover
    from neuromeld.planning.plan import meta_model

    model = meta_model(locate(name).config())
    found, discovery, allowed = probe(model), discover(model), _allowed(model)
    if as_json:
        parts = {"discovered": dataclasses.asdict(discovery), "allowed": dataclasses.asdict(allowed)}
        typer.echo(json.dumps(dataclasses.asdict(found) | parts))
        return
    _show_nearest(found)
    _show_discovery(discovery)
    _show_allowed(allowed)
    typer.echo(f"\n{found.draft}")


def _allowed(model: object) -> Allowed:
    from neuromeld.planning.plan import architecture_of
    from neuromeld.stages import STAGES

    try:
        spec = architecture_of(model).spec  # type: ignore[arg-type]
    except UnsupportedModelError as error:
        return Allowed([], {}, str(error))
    reasons = {stage.name: stage.unavailable(spec) for stage in STAGES}
    return Allowed(
        [name for name, reason in reasons.items() if reason is None],
        {name: reason for name, reason in reasons.items() if reason is not None},
    )


def _show_nearest(found: "Probe") -> None:
    typer.echo(f"nearest architecture: {found.nearest}, which names {len(found.described)} kinds of parameters")
    for title, names in (("unclaimed", found.unclaimed), ("missing", found.missing)):
        typer.echo(f"{title}: {', '.join(names) or 'none'}")


def _show_discovery(found: "Discovery") -> None:
    typer.echo("\ndiscovered, and proved on a small random model of its structure:")
    for kind in found.proved:
        width = f"width stated by {' and '.join(kind.ffn_keys)}" if kind.ffn_keys else f"native: {kind.native_only}"
        for stack in kind.stacks:
            paths = dict.fromkeys(weight.path for weight in stack.weights)
            typer.echo(f"- FFNs in {stack.path}: {', '.join(paths)} ({width})")
            dropped = f"stated by {stack.count_key}" if stack.count_key else kind.refusals.get("drop_layers")
            typer.echo(f"  layers to drop: {dropped}")
            if stack.mixture is not None:
                typer.echo(f"  experts: {stack.mixture.experts} (number stated by {stack.mixture.key})")
            elif "experts" in kind.refusals:
                typer.echo(f"  experts: not fewer: {kind.refusals['experts']}")
    for reason in (*found.refused, *([found.unbuilt] if found.unbuilt else [])):
        typer.echo(f"- not proved: {reason}")


def _show_allowed(allowed: Allowed) -> None:
    if allowed.refused:
        typer.echo(f"\nno stage works: {allowed.refused}")
        return
    typer.echo(f"\nstages that work: {', '.join(allowed.stages)}")
    for reason in allowed.reasons.values():
        typer.echo(f"- {reason}")
