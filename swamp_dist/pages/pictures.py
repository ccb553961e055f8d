"""The pictures of a page: each stands in it once, however often it is shown."""

from __future__ import annotations

from swamp_dist.printable import html_text


class PagePictures:
    """Pictures by their data URI, numbered in the order in which a page first shows them."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def span(self, uri: str, label: str) -> str:
        """A tag that shows a picture, below an element of class `pictures`.

        Args:
            uri: `data:image/...;base64,...`, made here and not taken from a file.
            label: what it shows, as plain text.
        """
        number = self._numbers.setdefault(uri, len(self._numbers))
        said = html_text(label)
        return f'<span class="p{number}" role="img" aria-label="{said}" title="{said}"></span>'

    def rules(self) -> str:
        """The part of the page's style that holds the pictures."""
        return "".join(
            f".pictures .p{number}{{background-image:url({uri})}}\n" for uri, number in self._numbers.items()
        )
