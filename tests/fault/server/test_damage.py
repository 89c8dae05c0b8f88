"""Bytes of the store are damaged while the server is down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fault.server.conftest import kill_all
from tests.fault.server.fleet import ChainClient, Fleet, ask

if TYPE_CHECKING:
    from pathlib import Path

REFUSED = "data_loss DATA_LOSS"


def places(folder: Path, client: ChainClient) -> list[tuple[Path, int]]:
    """Return where a sequence's last state lies, oldest file first."""
    found = []
    for path in sorted(folder.glob("*.seg")):
        data = path.read_bytes()
        # The state is also the newest reply, which the record holds before it.
        at = data.rfind(client.state)
        if at >= 0:
            found.append((path, at))
    return found


def flip(path: Path, offset: int) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


async def fill(served, sequences, steps: int) -> list[ChainClient]:
    async with Fleet(served.address, sequences) as fleet:
        await fleet.more(steps)
        await fleet.until(lambda: all(client.step for client in fleet.clients))
        await fleet.finish()
    return fleet.clients


async def test_a_flipped_bit_costs_the_sequence_that_it_hit(chain, tmp_path) -> None:
    """It is refused by name, not continued from something else; the others go on."""
    served = chain()
    clients = await fill(served, range(1, 17), 500)
    served.stop()
    for path, offset in places(tmp_path / "data", clients[3]):
        flip(path, offset)

    again = chain()

    answers = [ask(again.address, client) for client in clients]
    assert answers == [REFUSED if client is clients[3] else "ok" for client in clients]


async def test_a_flipped_bit_is_found_without_a_checkpoint_too(chain, tmp_path) -> None:
    """Recovery steps over the damaged record in an earlier file."""
    served = chain(segment_size="64K")
    idle = await fill(served, range(1, 9), 8)
    busy = await fill(served, range(101, 105), 1500)
    kill_all(served)
    folder = tmp_path / "data"
    (folder / "index.ckpt").unlink(missing_ok=True)
    last = max(folder.glob("*.seg"))
    hit = next(c for c in idle if places(folder, c) and places(folder, c)[-1][0] != last)
    for path, offset in places(folder, hit):
        flip(path, offset)

    again = chain(segment_size="64K")

    for client in [*idle, *busy]:
        assert ask(again.address, client) == (REFUSED if client is hit else "ok")


async def test_a_file_cut_short_costs_the_sequences_behind_the_cut(chain, tmp_path) -> None:
    """What a client holds a reply of is never silently begun anew."""
    served = chain()
    clients = await fill(served, range(1, 17), 500)
    served.stop()
    (path,) = (tmp_path / "data").glob("*.seg")
    ordered = sorted(clients, key=lambda client: places(tmp_path / "data", client)[0][1])
    middle = ordered[len(ordered) // 2]
    with path.open("r+b") as file:
        file.truncate(places(tmp_path / "data", middle)[0][1])

    again = chain()

    at = ordered.index(middle)
    assert [ask(again.address, client) for client in ordered[:at]] == ["ok"] * at
    assert {ask(again.address, client) for client in ordered[at:]} == {REFUSED}


async def test_a_lost_store_is_no_silent_beginning(chain, tmp_path) -> None:
    """Even where nothing at all is left, a client that holds a reply is told so."""
    served = chain()
    clients = await fill(served, range(1, 5), 50)
    served.stop()
    for path in (tmp_path / "data").iterdir():
        path.unlink()

    again = chain()

    assert {ask(again.address, client) for client in clients} == {REFUSED}
