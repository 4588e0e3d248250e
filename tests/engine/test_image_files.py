"""Image files below a folder, links to folders included."""

import scenes

from budwood.engine.image_rows import image_files
from budwood.engine.reading import read_dataset


def test_images_behind_a_link_are_found_once(tmp_path):
    folder = scenes.coco(tmp_path / "shapes", 3)
    elsewhere = (folder / "images").rename(tmp_path / "elsewhere")
    (folder / "images").symlink_to(elsewhere)
    assert len(read_dataset(folder).dataset) == 3
    (elsewhere / "back").symlink_to(folder)
    (elsewhere / "top").symlink_to(tmp_path)
    (folder / "again").symlink_to(elsewhere)
    (folder / "own.png").write_bytes((elsewhere / "000.png").read_bytes())
    assert len(image_files(folder)) == 4, "each once, whatever links lead to it"


def test_a_folder_goes_before_links_to_it(tmp_path):
    folder = scenes.coco(tmp_path / "shapes", 2)
    (folder / "a link").symlink_to(folder / "images")
    assert [file.parent.name for file in image_files(folder)] == ["images"] * 2
