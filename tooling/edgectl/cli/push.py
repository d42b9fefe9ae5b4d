"""`edgectl push`: an artifact and the runner go to a device."""

from __future__ import annotations

from edgectl.cli.options import ArtifactArgument, DeviceOption


def command(artifact: ArtifactArgument, device: DeviceOption = "host") -> None:
    """Push an artifact, and the runner it needs, to a device. Files that are there already are skipped.

    Example: edgectl push out/pruned --device emulator
    """
    from edgectl.artifact import Artifact
    from edgectl.cli.console import count, output, progress
    from edgectl.device import open_device
    from edgectl.runner import Session, remote_folder

    opened = Artifact.open(artifact)
    target = open_device(device)
    with progress() as say:
        session = Session.open(opened, target, say)
    sent = sum(len(result.pushed) for result in session.pushed)
    kept = sum(len(result.skipped) for result in session.pushed)
    size = count(sum(result.bytes for result in session.pushed))
    output().print(
        f"{artifact} is on {target.name} in {target.workdir}/{remote_folder(opened)}: "
        f"{sent} files sent ({size}B), {kept} were there already",
        soft_wrap=True,
    )
