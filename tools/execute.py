"""Execute the chapters, several at a time, into the cache that Jupyter Book reads.

Jupyter Book executes one chapter after the other. Here each chapter that is not in the cache yet gets a process of its
own; what it printed and drew goes into the cache, the claims it made into a folder beside it, under the same key: a
chapter that comes from the cache brings its own claims along, not those of a later version.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
from myst_parser.config.main import MdParserConfig

CLAIMS = "claims"


class Chapter(NamedTuple):
    """A page that executes: its file, what Jupyter Book reads from it, and its key in the cache."""

    path: Path
    notebook: Any
    key: str


class Executed(NamedTuple):
    """What became of a chapter: seconds it took, and the traceback where it failed."""

    path: Path
    seconds: float
    trouble: str


def pages_of(toc: Path) -> list[str]:
    """The pages that ``_toc.yml`` names, in its order, without suffix."""
    content = yaml.safe_load(toc.read_text(encoding="utf-8"))
    return [content["root"], *(c["file"] for part in content["parts"] for c in part["chapters"])]


def chapters_of(source: Path, toc: Path, cache: Path) -> list[Chapter]:
    """The pages of the table of contents that have code to execute, read as Jupyter Book reads them."""
    reading, keys, found = MdParserConfig(), get_cache(str(cache)), []
    for page in pages_of(toc):
        path = source / f"{page}.md"
        text = path.read_text(encoding="utf-8")
        if is_myst_markdown_notebook(text):
            notebook = read_myst_markdown_notebook(text, config=reading, add_source_map=True, path=str(path))
            found.append(Chapter(path, notebook, keys.create_hashed_notebook(notebook)[1]))
    return found


def is_executed(chapter: Chapter, cache: Path) -> bool:
    """Whether the cache holds the chapter, and its claims with it."""
    known = {record.hashkey for record in get_cache(str(cache)).list_cache_records()}
    return chapter.key in known and (cache / CLAIMS / chapter.key).is_dir()


def execute_chapters(chapters: list[Chapter], cache: Path, *, timeout: int, at_once: int) -> Iterator[Executed]:
    """Execute those chapters that the cache does not hold, ``at_once`` at a time; say what became of each.

    A chapter that fails is not stored; the others go on.
    """
    store = get_cache(str(cache))
    todo = [chapter for chapter in chapters if not is_executed(chapter, cache)]
    if not todo:
        return
    with ProcessPoolExecutor(at_once, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {pool.submit(_execute, c, str(cache.resolve() / CLAIMS / c.key), timeout): c for c in todo}
        for job in as_completed(jobs):
            chapter, (notebook, seconds, trouble) = jobs[job], job.result()
            if not trouble:
                bundle = CacheBundleIn(notebook, str(chapter.path.resolve()), data={"execution_seconds": seconds})
                store.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
            yield Executed(chapter.path, seconds, trouble)


def _execute(chapter: Chapter, claims: str, timeout: int) -> tuple[Any, float, str]:
    """One chapter in a fresh kernel, in its own folder; its claims go to ``claims``."""
    shutil.rmtree(claims, ignore_errors=True)
    scratch = f"{claims}.{os.getpid()}"
    Path(scratch).mkdir(parents=True)
    os.environ["REFIMPL_CLAIMS_DIR"] = scratch
    folder = str(chapter.path.resolve().parent)
    quiet = ["--log-level=ERROR"]  # or each kernel says that it speaks TCP
    done = single_nb_execution(chapter.notebook, cwd=folder, timeout=timeout, allow_errors=False, extra_arguments=quiet)
    if done.err is None:
        os.replace(scratch, claims)
    else:
        shutil.rmtree(scratch)
    return done.nb, done.time, done.exc_string or ""


def collect_claims(chapters: list[Chapter], cache: Path, target: Path) -> None:
    """Put the claims of these chapters, as they are now, into the empty folder ``target``."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for chapter in chapters:
        for file in sorted((cache / CLAIMS / chapter.key).glob("*.json")):
            shutil.copyfile(file, target / file.name)
