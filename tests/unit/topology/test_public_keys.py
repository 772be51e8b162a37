"""Public keys inserted into files of other tools: all else is kept."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest

from p2pfl.topology.public_keys import insert_keys

KEYS = {"n0": 'k&<>"[]{}#0', "n1": "k1"}
GML = """Creator "a tool [1.0]"  # not a list ]
graph [
  comment "node [ id n9 ]"
  node [ id "n0" graphics [ x 1.5 id "inner" ] label "Ann" ]
  Node [
    id n1
    LabelGraphics [ text "Bo" ]
  ]
  edge [ source n0 target n1 id n0 ]
]
"""
YED = """<?xml version="1.0" encoding="UTF-8"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns" xmlns:y="http://www.yworks.com/xml/graphml">
<key for="node" id="public_key" attr.name="color"/><key for="node" id="d6" yfiles.type="nodegraphics"/>
<graph edgedefault="directed"><node id="n0"><data key="d6"><y:ShapeNode><y:NodeLabel>Ann</y:NodeLabel></y:ShapeNode>
</data></node><node id="n1"/><edge source="n0" target="n1"/></graph></graphml>
"""
GEPHI = """<gexf xmlns="http://gexf.net/1.3" xmlns:viz="http://gexf.net/1.3/viz" version="1.3"><graph><nodes>
<node id="n0" label="Ann"><viz:color hex="#ff7700"/></node><node id="n1"/></nodes></graph></gexf>
"""
CYTOSCAPE = {
    "data": {"name": "net"},
    "elements": {"nodes": [{"data": {"id": "n0"}, "position": {"x": 1}}], "edges": []},
}


def inserted(suffix: str, text: str, keys: dict[str, str] = KEYS) -> str:
    return insert_keys(suffix, text.encode(), "t", keys).decode()


def test_gml_is_changed_in_its_text_only() -> None:
    written = inserted(".gml", GML)
    added = [' public_key "k&amp;<>&quot;[]{}#0"', ' public_key "k1"']
    assert [written.count(text) for text in added] == [1, 1]
    plain = written
    for text in added:
        plain = plain.replace(text, "")
    assert plain == GML
    assert 'node [ public_key "k&amp;' in written
    again = inserted(".gml", written, {"n0": "new", "n1": "k1"})
    assert "k&amp;" not in again
    assert again.count("public_key") == 2


@pytest.mark.parametrize(("suffix", "text"), [(".graphml", YED), (".gexf", GEPHI)])
def test_elements_of_other_tools_stay(suffix: str, text: str) -> None:
    written = inserted(suffix, text)
    assert inserted(suffix, written) == written, "a key is replaced, not added again"
    root = ElementTree.fromstring(written)
    before = [(e.tag, e.attrib, (e.text or "").strip()) for e in ElementTree.fromstring(text.encode()).iter()]
    after = [(e.tag, e.attrib, (e.text or "").strip()) for e in root.iter()]
    for element in before:
        assert element in after
        after.remove(element)
    values = [text or attributes.get("value") for _, attributes, text in after if text or "value" in attributes]
    assert values == list(KEYS.values())
    assert "xmlns:ns" not in written, "the file's own prefixes"


def test_json_of_other_tools() -> None:
    written = json.loads(inserted(".json", json.dumps(CYTOSCAPE)))
    assert written["elements"]["nodes"][0]["data"].pop("public_key") == KEYS["n0"]
    assert written == CYTOSCAPE
    by_place = {"nodes": [{"name": "Ann"}, {"name": "Bo"}], "links": [{"source": 0, "target": 1}]}
    nodes = json.loads(inserted(".json", json.dumps(by_place), {"0": "k0", "1": "k1"}))["nodes"]
    assert nodes == [{"name": "Ann", "public_key": "k0"}, {"name": "Bo", "public_key": "k1"}]
