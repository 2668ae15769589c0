"""What a checkpoint is taken for, told to people: by which facts, and why not for what it resembles. No torch."""

from __future__ import annotations

from collections import Counter

from hpc_embed.checkpoints.config import READ_BY_ALL, WITHOUT_EFFECT
from hpc_embed.checkpoints.face import Face, Taken, take
from hpc_embed.checkpoints.files import INDEX
from hpc_embed.checkpoints.tensors import plain_name
from hpc_embed.families.parts import form_of, parts
from hpc_embed.run.identity import find_checkpoint, pin_model

MOST_NAMES = 12


def explain(name: str) -> dict[str, str]:
    """Headings and texts for a folder, a name of the registry or ORG/REPOSITORY.

    Raises EnvironmentFault for a checkpoint that is refused: its line is the explanation.
    """
    face = Face(find_checkpoint(name))
    taken = take(face)
    model, identity = pin_model(name, None, None)
    numbers = Counter(facts.numbers for facts in face.tensors.values())
    way = "packed, by our encoder" if taken.family else "by transformers' own model"
    facts = {
        "checkpoint": str(face.folder),
        "taken for": f"{taken.family.name if taken.family else taken.model_type}, {way}",
        "and not for": "; ".join(f"{family}: {reason}" for family, reason in taken.why_not.items()),
        "for": model.kind,
        "layers": f"{model.num_layers} of {model.hidden} hidden features",
        "tokenizer": "in its authors' code" if face.vocabulary is None else face.vocabulary.source,
        "letters it knows": "".join(sorted(model.known_letters)),
        "longest window": f"{model.max_residues:,} letters" if model.max_residues else "any",
        "pooling": f"{model.pooling} [default], {', '.join(each for each in model.poolings if each != model.pooling)}",
        "licence": model.licence or "not told",
        "files": _few([path.name for path in face.weights if not path.name.endswith(INDEX)]),
        "numbers": ", ".join(f"{count} tensors in {kind}" for kind, count in numbers.items()),
    }
    unproven = "not yet, here; the first start does it" if taken.family else "each start tries it anew"
    return facts | _fields(face, taken) | {"proven": identity.proof or unproven}


def _fields(face: Face, taken: Taken) -> dict[str, str]:
    """What was made of each field of config.json, and of the tensors."""
    if taken.family is None or taken.shape is None:
        return {"fields": "heeded by transformers, which is asked for those that it does not know when it loads"}
    dimensions = {key for keys in taken.family.config_keys.values() for key in keys}
    read = [name for name in face.config if name in dimensions or name in READ_BY_ALL]
    heeded = [name for name in face.config if name in taken.family.heeds]
    without = [name for name in face.config if name in WITHOUT_EFFECT and name not in heeded]
    wanted = {part.name for part in parts(taken.family, taken.shape, form_of(taken.family, face.sizes))}
    unread = [name for name in face.tensors if plain_name(name) not in wanted]
    return {
        "fields read": ", ".join(read),
        "fields heeded": ", ".join(f"{name} {face.config[name]!r}" for name in heeded),
        "fields without effect": ", ".join(without),
        "tensors read": f"{len(wanted)}",
        "tensors not needed": _few(unread),
    }


def _few(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
