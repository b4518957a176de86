"""Find switches of a config without which a key of it states the width of FFNs, as where they round it."""

from collections.abc import Iterator

from transformers import PreTrainedModel

from neuromeld.discovery.axes import built, shapes_of, stated_keys, with_values
from neuromeld.discovery.groups import Group, groups_of


def switched_off(model: PreTrainedModel, group: Group) -> Iterator[tuple[str, Group]]:
    """Yield each switch that, once it is off, leaves the same FFNs in another width, which a key states alone; with the
    group that has that key.
    """
    before = shapes_of(model)
    for key, value in stated_keys(model.config.to_dict()):
        config = with_values(model.config, {key: False}) if value is True else None
        other = built(type(model), config) if config is not None else None
        if other is None or (shapes := shapes_of(other)) == before or shapes.keys() != before.keys():
            continue
        yield from ((key, found) for found in groups_of(other) if found.parts == group.parts and found.alone)
