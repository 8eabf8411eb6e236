"""From an aggregator at work to what its operators see."""

import collabsecure
from collabsecure.agreement import Agreement
from collabsecure_cli.service import Service
from collabsecure_cli.status import ClientStatus, Status


def describe(service: Service, agreement: Agreement) -> Status:
    """What operators see of a service."""
    picture, session, now = service.picture, service.session, service.clock()
    spec = session.sums[picture.sum_index] if picture.sum_index >= 0 else None
    outcome = picture.failure and f"No result: {picture.failure}"
    if picture.is_over and outcome is None:
        outcome = "Finished: the update is merged."
    return Status(
        session=session.transcript.hex(),
        task=session.task,
        model=agreement.model,
        flow=agreement.flow,
        phase="OPENING" if service.is_opening else "MERGING" if picture.is_merging else str(picture.state),
        sum_name=spec.name if spec else None,
        sum_index=max(picture.sum_index, 0),
        num_sums=len(session.sums),
        clients=tuple(
            ClientStatus(
                number=client,
                name=agreement.client_names[client - 1],
                standing=_standing(service, client),
                bytes_received=service.bytes_of[client],
                last_seen_seconds=now - service.seen[client] if client in service.seen else None,
            )
            for client in session.client_ids
        ),
        bytes_received=sum(service.bytes_of.values()),
        seconds_left=service.seconds_left,
        phase_seconds=service.phase_seconds,
        running_seconds=now - service.started,
        outcome=outcome,
        finished=picture.is_over and picture.failure is None,
        version=collabsecure.__version__,
    )


def _standing(service: Service, client: int) -> str:
    picture = service.picture
    if client in picture.out:
        return "left out"
    if client in service.done:
        return "done"
    if client in picture.missing:
        return "waited for"
    return "taking part" if picture.is_over or picture.is_merging else "arrived"
