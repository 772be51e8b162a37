"""Every command, script and settings file of the documents works as shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.paths import ROOT
from tests.support.snippet_session import Session
from tests.support.snippets import DOCUMENTS, NEEDS, PARSED, RUN, SHOWN, Block, blocks_of
from tests.support.tiny import tiny_arguments, tiny_python

BLOCKS = {document: blocks_of(document) for document in DOCUMENTS}
RUNNABLE = {
    document: [block for block in blocks if block.language in RUN | PARSED and not block.needs]
    for document, blocks in BLOCKS.items()
}
WITH_PROCESSES = [document for document, blocks in RUNNABLE.items() if any(block.language in RUN for block in blocks)]
LEFT_OUT = [block for blocks in BLOCKS.values() for block in blocks if block.needs]
ONLY_PARSED = [document for document, blocks in RUNNABLE.items() if blocks and document not in WITH_PROCESSES]


@pytest.mark.processes
@pytest.mark.parametrize("document", WITH_PROCESSES, ids=str)
def test_snippets_of_a_document_work_in_their_order(document: Path, tmp_path: Path) -> None:
    session = Session(tmp_path)
    for block in RUNNABLE[document]:
        session.run(block)


@pytest.mark.parametrize("document", ONLY_PARSED, ids=str)
def test_settings_of_a_document_can_be_read(document: Path, tmp_path: Path) -> None:
    session = Session(tmp_path)
    for block in RUNNABLE[document]:
        session.run(block)


@pytest.mark.parametrize("block", LEFT_OUT, ids=[block.place for block in LEFT_OUT])
def test_a_block_that_is_not_run_says_what_it_needs(block: Block) -> None:
    """The summary of the tests lists them as skipped."""
    assert block.needs in NEEDS
    pytest.skip(f"{block.place} needs {block.needs}: {NEEDS[block.needs]}")


def test_every_block_names_its_language() -> None:
    known = RUN | PARSED | SHOWN
    assert [block.place for blocks in BLOCKS.values() for block in blocks if block.language not in known] == []


def test_commands_stand_in_blocks_that_are_run() -> None:
    """Not in indented ones, which no test finds."""
    begin = ("    p2pfl ", "    python run_peers.py ", "    python -m p2pfl")
    found = []
    for document, blocks in BLOCKS.items():
        inside = {number for block in blocks for number in range(block.line, block.line + block.text.count("\n") + 2)}
        lines = (ROOT / document).read_text(encoding="utf-8").splitlines()
        found += [f"{document}:{n}" for n, line in enumerate(lines, 1) if line.startswith(begin) and n not in inside]
    assert found == []


def test_blocks_are_found_with_their_names_and_needs() -> None:
    text = (
        "text\n```bash\np2pfl --help\n```\n- item\n\n"
        '    ```python title="a.py"\n    x = 1\n    ```\n\n'
        "<!-- needs: gpu -->\n```toml\n# b.toml\nx = 1\n```\n"
    )
    document = Path("a.md")
    assert blocks_of(document, text) == [
        Block(document, 2, "bash", "p2pfl --help\n"),
        Block(document, 7, "python", "x = 1\n", "a.py"),
        Block(document, 12, "toml", "# b.toml\nx = 1\n", "b.toml", "gpu"),
    ]
    with pytest.raises(ValueError, match=r"a\.md:1: a block that is not closed"):
        blocks_of(document, "```bash\nx\n")


@pytest.mark.parametrize(
    ("command", "tiny"),
    [
        (
            "gossip ring.gml --model vgg19 --rounds=40 --local-epochs 5 --dataset cifar10",
            "gossip ring.gml --model vgg11 --rounds 2 --dataset digits --local-steps 2 --eval-samples 64 --width 0.125 "
            "--consensus-tolerance 0.1",
        ),
        (
            "sgd --epochs 5 --dataset digits --model mine:net",
            "sgd --epochs 2 --dataset digits --model mine:net --local-steps 2 --eval-samples 64",
        ),
        (
            "compare topologies/ring-8.graphml topologies/mesh-8.graphml --dataset digits --centralized "
            "--num-selected 8,3",
            "compare topologies/ring-4.graphml topologies/mesh-4.graphml --dataset digits --centralized "
            "--num-selected 4,3 --local-steps 2 --eval-samples 64 --rounds 2 --width 0.125 --model vgg11 "
            "--consensus-tolerance 0.1",
        ),
        (
            "gossip topologies/ring-8.graphml --dataset digits --model vgg11 --width 0.1 --rounds 9 --faults f.toml",
            "gossip topologies/ring-8.graphml --dataset digits --model vgg11 --width 0.1 --rounds 9 --faults f.toml "
            "--local-steps 2 --eval-samples 64 --consensus-tolerance 0.1",
        ),
        (
            "compare topologies/ring-20.graphml topologies/small-world-20.graphml --rounds 1 --width 0.1",
            "compare topologies/ring-20.graphml topologies/small-world-20.graphml --rounds 1 --width 0.1 "
            "--local-steps 2 --eval-samples 64 --model vgg11 --dataset digits --consensus-tolerance 0.1",
        ),
        ("gossip --resume runs/1 --rounds 60", "gossip --resume runs/1 --rounds 3"),
        ("topology make ring -n 16 -o ring.gml", "topology make ring -n 16 -o ring.gml"),
    ],
)
def test_sizes_are_made_tiny(command: str, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # which has smaller topologies
    assert tiny_arguments(command.split()) == tiny.split()


def test_sizes_of_scripts_are_made_tiny() -> None:
    script = 'RunConfig.of(dataset="cifar10", model="vgg19", width=0.25, rounds=30, local_epochs=2)'
    tiny = 'RunConfig.of(local_steps=2, eval_samples=64, dataset="digits", model="vgg11", width=0.125, rounds=2, )'
    assert tiny_python(script) == tiny
