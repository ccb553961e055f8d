"""What a page holds, as a browser would read it; and the worst text that a file may bring."""

from __future__ import annotations

from html.parser import HTMLParser

EVIL = (
    "</style></script><script>document.title='owned'</script><img src=x onerror=alert(1)> "
    "\x1b[2J\u202e\0 & \"'"
)


class Parsed(HTMLParser):
    """Tags of a page with their attributes, and what it says between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]
