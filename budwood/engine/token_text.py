"""What single tokens stand for, in bytes: a token may be a part of a character, so its text alone would not do."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["TokenTexts"]


class TokenTexts:
    """The bytes of each token of a tokenizer, by its id. Safe to use from several threads.

    Byte-level tokenizers (GPT-2) write each byte as a letter of their own, SentencePiece's write a space as `▁` and a
    byte as `<0x0A>`. Of other kinds a token is decoded by itself.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.kinds = frozenset(kinds(json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder else {}))
        self.added: Mapping[int, Any] = tokenizer.get_added_tokens_decoder()
        self.known: dict[int, bytes] = {}

    def bytes_of(self, token: int) -> bytes:
        """The bytes of a token; none for an id that the tokenizer does not have."""
        found = self.known.get(token)
        if found is None:
            found = self.known[token] = self.spelled(token)
        return found

    def text_of(self, token: int) -> str:
        r"""The token as text; one that is a part of a character in the way of OpenAI's API: `bytes:\xe2\x80`."""
        raw = self.bytes_of(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def spelled(self, token: int) -> bytes:
        if token in self.added:
            return str(self.added[token].content).encode()
        piece = self.tokenizer.id_to_token(token)
        if piece is None:
            return b""
        if "ByteLevel" in self.kinds and all(letter in BYTES for letter in piece):
            return bytes(BYTES[letter] for letter in piece)
        if "ByteFallback" in self.kinds and len(piece) == 6 and piece.startswith("<0x"):
            return bytes([int(piece[3:5], 16)])
        if self.kinds & {"Metaspace", "Replace"}:
            return str(piece).replace("▁", " ").encode()
        return str(self.tokenizer.decode([token], skip_special_tokens=False)).encode()


def kinds(decoder: Any) -> Iterator[str]:
    """The kinds of a decoder and of its parts."""
    if isinstance(decoder, dict):
        yield str(decoder.get("type"))
        for part in decoder.get("decoders") or ():
            yield from kinds(part)


def letters() -> Iterator[tuple[str, int]]:
    """The letter of each byte: printable ones of Latin-1 stand for themselves, the others for 256 and above.

    The alphabet of GPT-2 (Radford et al. 2019), which every byte-level tokenizer has kept.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = (byte for byte in range(256) if byte not in printable)
    yield from ((chr(byte), byte) for byte in sorted(printable))
    yield from ((chr(256 + number), byte) for number, byte in enumerate(hidden))


BYTES = dict(letters())
