"""What a film says about how it was made, and whether it could be made again here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import from_json
from starring.data.footage import digest
from starring.data.rights import Rights
from starring.data.subject import SUFFIXES
from starring.data.video import read_comment, untouched
from starring.errors import StarringError
from starring.generate.again import read_facts
from starring.generate.beside import WHOLE
from starring.generate.films import fingerprint, is_here, machine, versions
from starring.perception.encoders import load_clip
from starring.perception.segment import load_segmenter
from starring.refine.again import eyes_of
from starring.run import Run

SAME, OTHER, GONE = "same", "another", "gone"
"""How something stands to what it was when the film was made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that the film depends on."""

    what: str
    """What it is."""
    then: str
    """What it was when the film was made."""
    now: str
    """What it is here and now."""
    state: str
    """``same``, ``another`` or ``gone``."""
    needed: bool = False
    """Whether the film cannot be made again without it; otherwise it costs equal bits at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What was found about a film."""

    path: Path
    """The film, or its sidecar where there is no film."""
    facts: dict[str, Any]
    """What it says."""
    findings: tuple[Finding, ...]
    """Everything that it depends on."""
    remarks: tuple[str, ...]
    """What a person should know besides, as sentences."""

    @property
    def possible(self) -> bool:
        """Whether all that the film needs is here and unchanged."""
        return all(finding.state == SAME for finding in self.findings if finding.needed)

    @property
    def exact(self) -> bool:
        """Whether the film would come out bit for bit."""
        return all(finding.state == SAME for finding in self.findings)

    @property
    def conclusion(self) -> str:
        """The answer, as one sentence."""
        if self.exact:
            return "The film can be made again bit for bit."
        different = ", ".join(finding.what for finding in self.findings if finding.state != SAME)
        if self.possible:
            return f"The film can be made again, but for small differences perhaps, because of: {different}."
        needed = ", ".join(f"{f.what} ({f.state})" for f in self.findings if f.needed and f.state != SAME)
        return f"The film cannot be made again here, because of: {needed}."


def verify(path: str | Path, backbone: Backbone | None = None) -> Verification:
    """Read what a film says about itself and compare it with what is here.

    The film's own metadata are enough; a sidecar beside it is compared with them. Nothing is signed: this shows what
    was lost or changed by accident or in passing, not what somebody forged on purpose.

    Args:
        path: the film, or its sidecar.
        backbone: the backbone to compare with, if it is loaded already or is no longer where it was.

    Raises:
        StarringError: if there is no such file, or it is no film of this program.
    """
    path = Path(path).expanduser()
    facts, remarks = _read(path)
    networks, loaded = _networks(facts, backbone)
    findings = [*_files(path, facts), *_photographs(path, facts), *networks]
    if loaded is not None:
        findings += [*_eyes(facts, loaded)]
    findings += [*_surroundings(facts)]
    return Verification(path=path, facts=facts, findings=tuple(findings), remarks=(*remarks, *_declared(facts)))


def _read(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The facts, from the film itself if it has them, and what is odd about film and sidecar."""
    if not path.is_file():
        raise StarringError(f"There is no film {path}. Give a film, or the .json beside it.")
    film, sidecar = path.with_suffix(".mp4") if path.suffix == ".json" else path, path.with_suffix(".json")
    if not film.is_file():
        return read_facts(sidecar), [f"There is no film beside {sidecar.name}."]
    inside = read_comment(film)
    if "frames_sha256" not in inside:
        if not sidecar.is_file():
            raise StarringError(f"{film} says nothing about how it was made, and no sidecar does: no film of Starring.")
        return read_facts(sidecar), [
            "The film has lost what it said about itself; the sidecar beside it still says it."
        ]
    facts, remarks = read_facts(film), list[str]()
    if not untouched(film):
        remarks.append("The pictures are NOT those that were written: the film was cut, edited or compressed again.")
    if not sidecar.is_file():
        remarks.append("There is no sidecar beside the film; all that follows is from the film itself.")
    elif (beside := read_facts(sidecar)) != facts:
        keys = ", ".join(sorted(key for key in {*facts, *beside} if facts.get(key) != beside.get(key)))
        remarks.append(f"The sidecar beside the film says something else about: {keys}. The film's own word is taken.")
    return facts, remarks


def _files(path: Path, facts: dict[str, Any]) -> Iterator[Finding]:
    """The files that the film was made of."""
    method = facts["method"]
    members = method.get("members", {"": method})  # several subjects in one prompt
    places = {f"what was learned {word}".strip(): member for word, member in members.items() if member.get("file")}
    places |= {"the clip it began from": facts["video"]} if facts.get("video") else {}
    places |= {"the photograph it was made beside": facts["photograph"]} if facts.get("photograph") else {}
    shown = (facts.get("beside") or {}).get("pictures", [])
    places |= {f"picture {number} of its subject": each for number, each in enumerate(shown, 1)}
    places |= {"what its layout follows": facts["control"]} if facts.get("control") else {}
    places |= {"the film before refining": facts["refined"]["film"]} if facts.get("refined") else {}
    for what, place in places.items():
        file, sha256 = place["file"], place["sha256"]
        if file is None:
            yield Finding(what=what, then="in memory only", now="not kept", state=GONE, needed=True)
            continue
        named = path.resolve().parent / file
        if not named.exists():
            yield Finding(what=what, then=file, now="not there", state=GONE, needed=True)
            continue
        same = digest(named) == sha256
        now = "there, unchanged" if same else "there, but its content is another"
        yield Finding(what=what, then=file, now=now, state=SAME if same else OTHER, needed=True)


def _photographs(path: Path, facts: dict[str, Any]) -> Iterator[Finding]:
    """What a reward compared the film with."""
    method = facts["method"]
    if "reward" not in method:
        return
    what, then = "the reward's photographs", "those of the run"
    try:
        photographs = Run.open((path.resolve().parent / method["file"]).parent).record.subject
    except StarringError as error:
        yield Finding(what=what, then=then, now=str(error), state=GONE, needed=True)
        return
    known, files = set(photographs.digests.values()), list[Path]()
    if photographs.folder is not None and (folder := Path(photographs.folder)).is_dir():
        files = [file for file in folder.iterdir() if file.is_file() and file.suffix.lower() in SUFFIXES]
    there = {digest(file) for file in files} & known
    yield Finding(
        what=what, then=f"{len(known)} photographs", now=f"{len(there)} of them are there, unchanged",
        state=SAME if there == known else OTHER if there else GONE, needed=True,
    )  # fmt: skip


def _networks(facts: dict[str, Any], backbone: Backbone | None) -> tuple[list[Finding], Backbone | None]:
    """The backbone's weights, and those of another text encoder if there was one; and the backbone, if it is here."""
    found, here = list[Finding](), backbone
    for what, about in (("the backbone", facts["backbone"]), ("the text encoder", facts.get("text_encoder"))):
        if about is None:
            continue
        origin = about["origin"]
        then = ", ".join([origin["name_or_path"], *(f"{k} {v}" for k, v in origin.items() if k != "name_or_path")])
        then = f"{then} ({about['dtype']})"
        try:
            loaded = backbone if backbone is not None and what == "the backbone" else load_backbone(
                **origin, device="cpu", dtype=about["dtype"]
            )  # fmt: skip
        except StarringError as error:
            found.append(Finding(what=what, then=then, now=str(error), state=GONE, needed=True))
            continue
        here = loaded if what == "the backbone" else here
        same = fingerprint(loaded) == about["fingerprint"]
        now = "there, unchanged" if same else "there, but with other weights"
        found.append(Finding(what=what, then=then, now=now, state=SAME if same else OTHER, needed=True))
    return found, here


def _eyes(facts: dict[str, Any], backbone: Backbone) -> Iterator[Finding]:
    """Networks beside the backbone: of a reward, of a film that was refined, and who cut a picture's subject out."""
    loads: dict[str, tuple[str, Callable[[], str]]] = {}
    if noted := facts.get("refined", {}).get("eyes"):
        now = eyes_of(facts["refined"], backbone)
        loads |= {f"the {name} of refining": (then, now[name]) for name, then in noted.items()}
    if (reward := facts["method"].get("reward")) is not None:
        then = reward.get("eyes", {"segmenter": "", "encoder": ""})  # older films do not say
        for name, load in (("segmenter", load_segmenter), ("encoder", load_clip)):
            loads[f"the reward's {name}"] = then[name], lambda load=load, name=name: load(reward[name]).id
            if name not in reward:
                now = "passed in by a program, so not known by name"
                yield Finding(what=f"the reward's {name}", then=then[name], now=now, state=GONE, needed=True)
                del loads[f"the reward's {name}"]
    cutter = (facts.get("beside") or {}).get("segmenter")
    if cutter is not None and cutter["name"] is None:
        now = "passed in by a program, so not known by name"
        yield Finding(what="who cut its subject out", then=cutter["id"], now=now, state=GONE, needed=True)
    elif cutter is not None and cutter["name"] != WHOLE:
        loads["who cut its subject out"] = cutter["id"], lambda: load_segmenter(cutter["name"]).id
    for what, (then, load) in loads.items():
        try:
            now = load()
        except StarringError as error:
            yield Finding(what=what, then=then, now=str(error), state=GONE, needed=True)
            continue
        yield Finding(what=what, then=then or "not noted", now=now, state=SAME if then in ("", now) else OTHER)


def _surroundings(facts: dict[str, Any]) -> Iterator[Finding]:
    """Libraries and machine; the number of threads is set when a film is made again."""
    installed = versions()
    for name, then in facts["versions"].items():
        now = installed.get(name, "not installed")
        yield Finding(what=name, then=then, now=now, state=SAME if now == then else OTHER)
    device = facts["machine"]["device"]
    if not is_here(device):
        yield Finding(what="device", then=device, now="not here", state=OTHER)
        return
    here = machine(torch.device(device))
    for key in ("device", "processor", "system"):
        then, now = str(facts["machine"][key]), str(here[key])
        yield Finding(what=key, then=then, now=now, state=SAME if now == then else OTHER)


def _declared(facts: dict[str, Any]) -> Iterator[str]:
    """Whose likeness it is, and whether that may still be used."""
    for member in facts["method"].get("members", {"": facts["method"]}).values():
        subject = member.get("learned", {}).get("subject", {})
        if subject.get("rights"):
            rights = from_json(Rights, subject["rights"])
            yield f"Declared about '{subject['name']}' when it was learned: {rights}."
            if objection := rights.objection():
                yield objection
