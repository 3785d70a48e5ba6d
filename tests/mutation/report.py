"""What is known to change nothing, and what came of the others: as text and as JSON."""

import json
from collections import Counter
from pathlib import Path

NOTICED = ("killed", "timeout", "crash")
_SAME = "same"  # machine code: nothing has to be said about it
_COLUMNS = (*NOTICED, "equivalent", "survived", "unreached")


def read_equivalent(path):
    """The recorded edits that change no result: {key: reason}.

    A line is ``FILE FUNCTION :: EDIT :: REASON``, as the report of a survivor has it, without the number of the line; a
    line that begins with # is a comment.
    """
    path, found = Path(path), {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], 1):
        if line.strip() and not line.startswith("#"):
            parts = line.split(" :: ")
            if len(parts) != 3:
                raise SystemExit(f"{path}:{number}: expected FILE FUNCTION :: EDIT :: REASON, got {line!r}")
            found[" :: ".join(parts[:2])] = parts[2]
    return found


class Summary:
    """All verdicts.

    Args:
        verdicts: of the edits that were tried.
        left_out: those recorded as equivalent, with the reasons.
        recorded: where these were tried as well, their keys.
    """

    def __init__(self, verdicts, left_out, recorded, seconds):
        self.verdicts, self.left_out, self.seconds = verdicts, left_out, seconds
        self.contradicted = [v for v in verdicts if v.edit.key in recorded and v.status in NOTICED]
        self.survivors = [v for v in verdicts if v.status not in (*NOTICED, _SAME) and v.edit.key not in recorded]
        self.files = {}
        for v in verdicts:
            unseen = v.status == _SAME or (v.edit.key in recorded and v.status not in NOTICED)
            status = "equivalent" if unseen else v.status
            self.files.setdefault(v.edit.path, Counter())[status] += 1
        for edit in left_out:
            self.files.setdefault(edit.path, Counter())["equivalent"] += 1

    @property
    def clean(self):
        """Whether every edit is noticed or equivalent, and no equivalent one is noticed."""
        return not self.survivors and not self.contradicted

    def text(self, failing=()):
        """A table by file, then the survivors."""
        lines = [f"{'':42s} edits  noticed  equivalent  survivors"]
        for name, c in [*sorted(self.files.items()), ("all", sum(self.files.values(), Counter()))]:
            noticed = sum(c[s] for s in NOTICED)
            others = c.total() - noticed - c["equivalent"]
            lines.append(f"{name:42s} {c.total():5d}  {noticed:7d}  {c['equivalent']:10d}  {others:9d}")
        lines += map(str, self.survivors)
        lines += [f"recorded as equivalent, but noticed by {v.by}: {v.edit}" for v in self.contradicted]
        if failing:
            lines.append(f"left out, as they fail without any edit: {', '.join(sorted(failing))}")
        lines.append(f"{self.seconds / 60:.1f} minutes")
        return "\n".join(lines)

    def write(self, path, again=False):
        """The same as JSON; in a file that is there already only what was tried is replaced: files, or survivors."""
        path = Path(path)
        document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"files": {}}
        files = {**document["files"], **{name: self._of_file(name) for name in self.files}}
        if again:
            files = {name: _updated(entry, files[name]) for name, entry in document["files"].items()}
        total = {key: round(sum(f[key] for f in files.values()), 1) for key in ("edits", *_COLUMNS, "minutes")}
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"total": total, "files": dict(sorted(files.items()))}
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def _of_file(self, name):
        verdicts, counted = [v for v in self.verdicts if v.edit.path == name], self.files[name]
        survivors = [
            {"line": e.line, "function": e.function, "what": e.what, "status": v.status, "tests": v.tests}
            for v in self.survivors if (e := v.edit).path == name
        ]  # fmt: skip
        return {
            "edits": counted.total(),
            **{column: counted[column] for column in _COLUMNS},
            "minutes": round(sum(v.seconds for v in verdicts) / 60, 1),
            "tests_that_noticed": dict(Counter(v.by.split("[")[0] for v in verdicts if v.by).most_common()),
            "survivors": survivors,
        }


def survivors(path):
    """The keys of what survived, by the JSON of an earlier run."""
    files = json.loads(Path(path).read_text(encoding="utf-8"))["files"]
    return {f"{name} {s['function']} :: {s['what']}" for name, entry in files.items() for s in entry["survivors"]}


def _updated(entry, again):
    """What is known of a file, after its survivors were tried once more."""
    if entry is again:
        return entry
    fixed = {key: entry[key] + again[key] for key in NOTICED}
    equivalent = entry["edits"] - sum(fixed.values()) - again["survived"] - again["unreached"]
    noticed = Counter(entry["tests_that_noticed"]) + Counter(again["tests_that_noticed"])
    return {
        **again,
        **fixed,
        "edits": entry["edits"],
        "equivalent": equivalent,
        "minutes": round(entry["minutes"] + again["minutes"], 1),
        "tests_that_noticed": dict(noticed.most_common()),
    }
