"""The classroom: a student's folder without solutions, the sizes of its tests, checking, and the command line."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from minires.classroom import release, sizes, tree
from minires.cli import make_parser
from minires.errors import ArgumentError
from tests.classrooms import EXERCISE, command, tree_in, write

pytestmark = pytest.mark.host_only("students' code runs in processes of its own, on NumPy")


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run `minires lessons` in an empty folder: (exit status, standard output, standard error)."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return command(capsys)


# the student's folder


def test_release_has_no_solution(run, tmp_path):
    lessons, student = tree_in(tmp_path / "lessons"), tmp_path / "student"
    status, out, err = run("release", student, "--from", lessons)
    assert (status, err) == (0, "")
    assert "7 files" in out
    names = {str(p.relative_to(student)) for p in student.rglob("*") if p.is_file()}
    assert names == {
        "03_products.py", "README.md", "conftest.py", "pytest.ini", "exercises/lesson03_products.py",
        "tests/test_lesson03.py", "tests/tasks.json",
    }  # fmt: skip
    everything = "".join(p.read_text() for p in student.rglob("*") if p.is_file())
    assert "SOLUTION" not in everything
    solutions = re.findall(r"# BEGIN SOLUTION.*?\n(.*?)# END SOLUTION", EXERCISE, re.DOTALL)
    assert len(solutions) == 3
    for line in "".join(solutions).splitlines():
        assert line.strip() == "" or line.strip() not in everything
    exercise = (student / "exercises" / "lesson03_products.py").read_text()
    assert '    raise NotImplementedError("lesson 03, task 1: the \\"gradients\\" of a product")\n' in exercise
    assert '        raise NotImplementedError("lesson 03, task 2: what is twice nothing")\n' in exercise
    assert "return a * x" in exercise  # what is given
    compile(exercise, "exercise", "exec")


def test_the_real_release_has_no_solution(tmp_path):
    lessons = Path(release.__file__).parents[2] / "lessons"
    if not tree.is_home(lessons):
        pytest.skip("no lessons here")
    done = release.release(lessons, tmp_path / "student")
    everything = "".join(p.read_text(encoding="utf-8") for p in done.written if p.suffix == ".py")
    assert "BEGIN SOLUTION" not in everything
    for path in (lessons / "exercises").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        parts = re.findall(r"# BEGIN SOLUTION.*?\n(.*?)\n[ \t]*# END SOLUTION", text, re.DOTALL)
        assert parts, path
        for part in parts:
            assert part not in everything, path


def test_release_never_overwrites(run, tmp_path):
    lessons, student = tree_in(tmp_path / "lessons"), tmp_path / "student"
    assert run("release", student, "--from", lessons)[0] == 0
    mine = student / "exercises" / "lesson03_products.py"
    mine.write_text("my work\n")
    (student / "tests" / "test_lesson03.py").unlink()
    write(student, {"notes.txt": "my notes"})
    (student / "tests" / "test_lesson01.py").write_text("")  # what makes it a released folder
    status, out, _ = run("release", student, "--from", lessons)
    assert (status, "1 files written, 6 that are there kept" in out) == (0, True)
    assert mine.read_text() == "my work\n"
    assert (student / "tests" / "test_lesson03.py").exists()

    other = write(tmp_path / "other", {"thesis.txt": "my work"})
    (tmp_path / "file").write_text("a file")
    for dest, says in [
        (other, "holds other things"),
        (tmp_path / "file", "is a file"),
        (lessons, "lies within the lessons"),
        (lessons / "student", "lies within the lessons"),
    ]:
        status, out, err = run("release", dest, "--from", lessons)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert says in err
    assert [p.name for p in other.iterdir()] == ["thesis.txt"]
    status, _, err = run("release", tmp_path / "again", "--from", student)
    assert (status, "has no solutions" in err) == (2, True)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("# BEGIN SOLUTION task 1: a\n# BEGIN SOLUTION task 2: b\n# END SOLUTION\n", "line 2: .*within that of line 1"),
        ("x = 1\n# END SOLUTION\n", "line 2: END SOLUTION without"),
        ("x = 1\n# BEGIN SOLUTION task 1: a\n", "line 2: .*without an END"),
        ("# BEGIN SOLUTION task one: a\n# END SOLUTION\n", "line 1: write"),
        ("# BEGIN SOLUTION task 1\n# END SOLUTION\n", "line 1: write"),
        ("x = 1  # BEGIN SOLUTION task 1: a\n# END SOLUTION\n", "line 1: write"),
    ],
)
def test_markers_written_otherwise(source, says):
    with pytest.raises(ArgumentError, match=says):
        release.strip(source, 3)


def test_strip_of_some_tasks():
    source = textwrap.dedent(EXERCISE)
    stripped = release.strip(source, 3, {2})
    assert "(dy * x).sum(0)" in stripped
    assert "return 2 * x" not in stripped
    assert stripped.count("BEGIN SOLUTION") == 1
    assert release.strip(source, 3, ()) == source


def test_plain_pytest_works_in_the_students_folder(run, tmp_path):
    student = tmp_path / "student"
    run("release", student, "--from", tree_in(tmp_path / "lessons"))
    result = pytest_in(student, "-m", "lesson03 and task2", "-rf")
    assert result.returncode == 1
    assert "2 failed, 2 deselected" in result.stdout
    assert "NotImplementedError: lesson 03, task 2: twice" in result.stdout
    result = pytest_in(student, "-m", "lesson03 and task1", f"--exercises={tmp_path / 'lessons' / 'exercises'}", "-rP")
    assert result.returncode == 0
    assert "sizes 3 5" in result.stdout
    result = pytest_in(student / "tests", "--exercises=../../lessons/exercises", "--seed=2", "--shapes=C=11", "-rP")
    assert result.returncode == 0
    assert re.search(r"sizes [3-7] 11\n", result.stdout)
    result = pytest_in(student, "--shapes=C")
    assert result.returncode == 4
    assert "shapes are written as N=4,C=6" in result.stderr


def pytest_in(folder, *words):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}  # ours may ask for several workers, which report otherwise
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


# sizes


def test_sizes():
    least = {"N": 4, "C": 5, "H": 3}
    assert sizes.draw(least) == (4, 5, 3)
    assert sizes.draw(least, 0, {"C": 9, "Q": 1}) == (4, 9, 3)
    drawn = {sizes.draw(least, seed) for seed in range(1, 300)}
    assert all(len(set(d)) == 3 for d in drawn)
    assert [(min(column), max(column)) for column in zip(*drawn, strict=True)] == [(4, 8), (5, 9), (3, 7)]
    assert all(sizes.draw(least, seed, {"C": 6})[1] == 6 for seed in range(5))
    assert all(6 not in sizes.draw(least, seed, {"C": 6})[::2] for seed in range(50))
    many = sizes.draw(dict.fromkeys("ABCDEFG", 2), 1)  # seven that differ
    assert len(set(many)) == 7
    assert min(many) >= 2


def test_sizes_refused():
    with pytest.raises(ArgumentError, match="C must be at least 5 in this test, got 4"):
        sizes.draw({"C": 5}, 0, {"C": 4})
    assert sizes.parse(" N=4, C_in=6") == {"N": 4, "C_in": 6}
    for text in ("", "N", "N=", "N=0", "N=-1", "N=4;C=5", "4=N", "N=1.5", "N=4,"):
        with pytest.raises(ArgumentError, match="shapes are written"):
            sizes.parse(text)


# checking


def test_skeleton_then_solution(run, tmp_path, monkeypatch):
    lessons, student = tree_in(tmp_path / "lessons"), tmp_path / "student"
    run("release", student, "--from", lessons)
    monkeypatch.chdir(student / "exercises")  # inside, and not only at its top
    status, out, err = run("check")
    assert (status, err) == (1, "")
    assert out.splitlines() == [
        "lesson 03  products",
        '  task 1  not written    the "gradients" of a product',
        "  task 2  not written    what is twice nothing",
        "",
        "0 of 2 tasks passed: 2 not written.",
        "Next: lesson 03, task 1, in lesson03_products.py, line 10: write it in place of the NotImplementedError.",
    ]
    mine = student / "exercises" / "lesson03_products.py"
    mine.write_text((lessons / "exercises" / "lesson03_products.py").read_text().replace("SOLUTION", ""))
    status, out, _ = run("check", "3")
    assert status == 0
    assert "2 of 2 tasks passed.\n" in out
    assert '  task 1  passed         the "gradients" of a product\n' in out  # the titles are not lost with the markers

    mine.write_text(mine.read_text().replace("(dy * x).sum(0)", "(dy * x).mean(0)"))
    status, out, _ = run("check", "lesson03", "--task", "1")
    assert status == 1
    assert "  task 1  wrong " in out
    assert "task 2" not in out
    assert re.search(r"^ {12}gradcheck scale_backward .* seed 0", out, re.MULTILINE)
    assert re.search(r"^ +hint: .*3 times too small", out, re.MULTILINE)  # the mean over N = 3
    assert re.search(r"^ +it printed:\n +sizes 3 5$", out, re.MULTILINE)
    status, out, _ = run("check", "03", "--task", "1", "--seed", "5", "--shapes", "N=13,Q=3")
    assert re.search(r"hint: .*13 times too small", out)
    assert re.search(r"sizes 13 \d", out)
    assert "seed 5" in out
    assert "No test asked for the size Q of --shapes; they have C, N." in out
    status, out, _ = run("check", "03", "--task", "1", "--shapes", "N=2")
    assert "task 1  not graded" in out
    assert "N must be at least 3 in this test, got 2" in out


def test_what_is_given_was_changed(run, tmp_path):
    lessons = tree_in(tmp_path / "lessons")
    path = lessons / "exercises" / "lesson03_products.py"
    path.write_text(path.read_text().replace("return a * x", "return a + x").replace("dy * a,", "dy,"))
    status, out, _ = run("check", "--from", lessons, "--task", "1")
    assert status == 1
    assert "given " not in out
    status, out, _ = run("check", "--from", lessons)
    assert status == 1
    assert "  given   wrong          what is given\n" in out
    assert "something that was given has been changed" in out


def test_a_submission(run, tmp_path):
    lessons = tree_in(tmp_path / "lessons")
    handed_in = tmp_path / "ada" / "exercises" / "lesson03_products.py"
    source = release.strip(textwrap.dedent(EXERCISE), 3, {2})
    write(tmp_path / "ada", {"exercises/lesson03_products.py": source, "tests/test_lesson03.py": "def test(): pass"})
    for folder in (tmp_path / "ada", handed_in.parent):
        status, out, _ = run("check", "--from", lessons, "--of", folder)
        assert status == 1
        assert "1 of 2 tasks passed: 1 not written." in out
    (tmp_path / "none").mkdir()
    status, _, err = run("check", "--from", lessons, "--of", tmp_path / "none")
    assert (status, "must be a folder with files called lessonNN" in err) == (2, True)


# the rest of the command


def test_list(run, tmp_path):
    lessons = tree_in(tmp_path / "lessons")
    for words in (["--from", lessons], ["--from", lessons, "check", "--task", 1]):
        status, out, err = run(*words)
        assert (status, err) == (0, "")
        assert "lesson 03  products" in out
    status, out, _ = run("--from", lessons)
    assert '  task 1  the "gradients" of a product\n  task 2  what is twice nothing\n' in out


def test_solutions_are_called_so(run, tmp_path):
    lessons = tree_in(tmp_path / "lessons")
    status, out, _ = run("check", "--from", lessons)
    assert status == 0
    assert out.splitlines()[-1].startswith("These are the solutions; minires lessons release DEST")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["check", "04"], "no lesson '04' to check; there are 03"),
        (["check", "x"], "no lesson 'x' to check"),
        (["check", "--task", "7"], "no task 7 in lesson 03"),
        (["check", "--task", "0"], "--task must be at least 1, got 0"),
        (["check", "--seed", "-1"], "--seed must be at least 0"),
        (["check", "--shapes", "N4"], "shapes are written as"),
        (["check", "--timeout", "0"], "--timeout must be at least 0.1"),
        (["check", "--timeout", "nan"], "--timeout must be at least 0.1"),
        (["check", "--memory", "0"], "--memory must be at least 1"),
        (["check", "--jobs", "0"], "--jobs must be at least 1"),
        (["check", "--seeds", "3"], "--seeds belongs to --mutants"),
        (["check", "--json", "no/such/folder/a.json"], "--json no/such/folder/a.json is no file that can be written"),
        (["check", "--gradescope", "."], "--gradescope . is no file"),
        (["check", "--of", "nowhere"], "nowhere must be a folder"),
        (["check", "--mutants", "nowhere.py"], "there is no file nowhere.py"),
        (["check", "--mutants", "a.py", "--task", "1"], "--mutants checks a gradient checker"),
        (["check", "--seed", "x"], "invalid int value"),
        (["unknown"], "invalid choice"),
        (["check", "--from", "nowhere"], "nowhere holds no lessons"),
    ],
)
def test_bad_input(run, tmp_path, words, says):
    lessons = tree_in(tmp_path / "lessons")
    given = [] if "--from" in words or "unknown" in words else ["--from", lessons]
    status, out, err = run(*words, *given)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_without_exercises(run, tmp_path):
    lessons = tree_in(tmp_path / "lessons")
    (lessons / "exercises" / "lesson03_products.py").unlink()
    status, out, err = run("check", "--from", lessons)
    assert (status, out) == (2, "")
    assert "there is no exercise called lessonNN" in err
    status, out, _ = run("check", "03", "--from", lessons)
    assert (status, "Next: put the file of lesson 03 into" in out) == (1, True)


def test_without_lessons(run, monkeypatch, tmp_path):
    monkeypatch.setattr(tree, "__file__", str(tmp_path / "site-packages" / "minires" / "classroom" / "tree.py"))
    for words in ([], ["check"], ["release", "a"]):
        status, out, err = run(*words)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "no lessons here" in err


def test_without_pytest(run, monkeypatch, tmp_path):
    lessons = tree_in(tmp_path / "lessons")
    find = importlib_find_spec()
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None if name == "pytest" else find(name, *a))
    status, _, err = run("check", "--from", lessons)
    assert (status, "pip install pytest" in err) == (2, True)


def importlib_find_spec():
    import importlib.util

    return importlib.util.find_spec


def test_a_damaged_file_of_titles_and_grader(run, tmp_path):
    lessons = tree_in(tmp_path / "lessons")
    write(lessons, {"tests/tasks.json": "[1, 2"})
    assert run("--from", lessons)[0] == 0
    write(lessons, {"tests/test_lesson03.py": "def test(:"})
    status, _, err = run("--from", lessons)
    assert (status, "test_lesson03.py, line 1" in err) == (2, True)


def test_the_classroom_is_light():
    code = """
        import sys, minires
        assert not [m for m in sys.modules if m.startswith("minires.classroom")]
        from minires.classroom import FAST, save
        assert "pytest" not in sys.modules and "matplotlib" not in sys.modules
        import minires.cli
        assert "pytest" not in sys.modules and "minires.classroom.check" not in sys.modules
        print(FAST)
    """
    for given, expected in (("1", "True"), ("", "False"), ("0", "False")):
        command = [sys.executable, "-c", textwrap.dedent(code)]
        done = subprocess.run(command, env=os.environ | {"MINIRES_FAST": given}, capture_output=True, text=True)
        assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_save(tmp_path, monkeypatch, capsys):
    from matplotlib.figure import Figure

    from minires.classroom import save

    figure = Figure()
    figure.add_subplot().plot(np.arange(3))
    monkeypatch.setenv("MINIRES_FIGURES", str(tmp_path / "figures"))
    path = save(figure, "03_products")
    assert path == tmp_path / "figures" / "03_products.png"
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert capsys.readouterr().out == f"figure: {path}\n"
    monkeypatch.delenv("MINIRES_FIGURES")
    monkeypatch.chdir(tree_in(tmp_path / "lessons") / "tests")
    assert save(figure, "a") == tmp_path / "lessons" / "figures" / "a.png"


# what a teacher copies

TEACHING = Path(release.__file__).parents[2] / "lessons" / "teaching"


def commands(text):
    """The calls of `minires lessons` in a file, as lists of words."""
    text = text.replace("\\\n", " ").split("||")[0]
    return [shlex.split(line) for line in re.findall(r"minires (lessons check .*?)(?: #.*)?$", text, re.MULTILINE)]


def test_the_workflow_for_github_has_a_step_for_each_task():
    text = (TEACHING / "github-classroom.yml").read_text()
    lesson = next(x for x in tree.lessons(TEACHING.parent) if x.number == 1)
    ids = [f"lesson01-task{task}" for task in lesson.tasks]
    assert re.findall(r"^ +id: (.+)$", text, re.MULTILINE) == ids
    assert re.findall(r"^ +runners: (.+)$", text, re.MULTILINE) == [",".join(ids)]
    given = re.findall(r'^ +(\S+)_RESULTS: "\$\{\{steps\.(.+)\.outputs\.result\}\}"$', text, re.MULTILINE)
    assert given == [(name.upper(), name) for name in ids]
    parsed = [make_parser().parse_args(words) for words in commands(text)]
    assert [(p.lessons, p.task, p.of) for p in parsed] == [(["01"], task, ".") for task in lesson.tasks]


def test_the_autograder_for_gradescope():
    (words,) = commands((TEACHING / "gradescope" / "run_autograder").read_text())
    parsed = make_parser().parse_args(words)
    assert (parsed.lessons, parsed.gradescope) == (["01"], "/autograder/results/results.json")
    assert parsed.seed != 0
