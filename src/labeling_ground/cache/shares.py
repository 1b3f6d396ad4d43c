"""Who makes room, where several tenants share something that is bounded."""

from collections.abc import Mapping


def payer(held: Mapping[str, int], tenant: str, size: int, most: float) -> str | None:
    """The tenant out of whose things room is made for ``size`` more of another one; ``None`` where none holds any.

    A tenant that would hold more than its share makes room among its own. One below it takes from the one that holds
    the most. So the load of one costs the others nothing that they hold below their share.

    Args:
        held: what each tenant holds.
        tenant: the one that needs room.
        size: how much it needs.
        most: the share: what one tenant may hold while others need room.
    """
    own = held.get(tenant, 0)
    if own and own + size > most:
        return tenant
    return max(held, key=held.__getitem__, default=None)
