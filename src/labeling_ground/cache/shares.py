"""Which tenant makes room where several share a budget."""

from collections.abc import Mapping


def payer(owned: Mapping[str, int], tenant: str, size: int, most: float) -> str | None:
    """The tenant that loses entries so that another one gets ``size`` more; ``None`` where no tenant has any.

    A tenant that would have more than its share makes room among its own. One below it takes from the one that has
    the most. So the load of one costs the others nothing that they have below their share.

    Args:
        owned: what each tenant has.
        tenant: the one that needs room.
        size: how much it needs.
        most: the share: what one tenant may have while others need room.
    """
    own = owned.get(tenant, 0)
    if own and own + size > most:
        return tenant
    return max(owned, key=owned.__getitem__, default=None)
