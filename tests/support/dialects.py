"""Small graphs in the words of the tools that write them, with their meaning."""

# ruff: noqa: E501  (lines as long as the tools make them)

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Dialect:
    """A file and its graph.

    Nodes by label where they have one; edges as 'a-b', or 'a>b' where they are directed.
    """

    file: str
    content: str
    nodes: str
    edges: str
    note: str = ""
    weights: str = ""


def yed(nodes: str, edges: str, kind: str = "directed") -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns" '
        'xmlns:java="http://www.yworks.com/xml/yfiles-common/1.0/java" xmlns:y="http://www.yworks.com/xml/graphml">'
        '<key for="port" id="d1" yfiles.type="portgraphics"/><key for="graphml" id="d7" yfiles.type="resources"/>'
        '<key attr.name="Date" attr.type="date" for="node" id="d3"/><key for="node" id="d6" yfiles.type="nodegraphics"/>'
        f'<key for="edge" id="d10" yfiles.type="edgegraphics"/><graph edgedefault="{kind}" id="G"><data key="d0"/>{nodes}'
        f'{edges}</graph><data key="d7"><y:Resources/></data></graphml>'
    )


def yed_node(name: str, label: str, shape: str = "ShapeNode", inside: str = "") -> str:
    more = ' yfiles.foldertype="group"' if inside else ""
    return (
        f'<node id="{name}"{more}><data key="d6"><y:{shape}><y:Geometry x="0"/><y:Fill color="#FF"/><y:NodeLabel '
        f'modelName="custom">{label}<y:LabelModel/></y:NodeLabel></y:{shape}></data><port name="p"/>{inside}</node>'
    )


def yed_edge(u: str, v: str, tail: str = "none", head: str = "standard") -> str:
    return (
        f'<edge id="e{u}{v}" source="{u}" target="{v}" sourceport="p"><data key="d10"><y:PolyLineEdge><y:Arrows '
        f'source="{tail}" target="{head}"/><y:EdgeLabel>10 Gbit</y:EdgeLabel></y:PolyLineEdge></data></edge>'
    )


def gexf(namespace: str, kind: str | None, nodes: str, edges: str, more: str = "") -> str:
    default = "" if kind is None else f' defaultedgetype="{kind}"'
    return (
        f'<?xml version="1.0"?><gexf xmlns="{namespace}" xmlns:viz="{namespace}/viz"><meta><creator>x</creator></meta>'
        f'<graph{default} mode="dynamic" timeformat="date">{more}<nodes count="3">{nodes}</nodes><edges>{edges}</edges>'
        "</graph></gexf>"
    )


GEXF_NODES = (
    '<node id="0.0" label="Ann" start="2001-01-01"><viz:color hex="#ff7700"/><viz:size value="big"/><spells><spell '
    'start="2001-01-01"/></spells></node><node id="1.0" label="Bo"><attvalues><attvalue for="9" value="x"/></attvalues>'
    '</node><node id="2.0" label="Cy"/>'
)
GEXF_EDGES = (
    '<edge source="0.0" target="1.0" weight="2.5"/><edge id="1" source="1.0" target="2.0" kind="x" start="2003"/>'
)
ZOO = (
    '<?xml version="1.0" encoding="utf-8"?><graphml xmlns="http://graphml.graphdrawing.org/xmlns"><key attr.name="label" '
    'attr.type="string" for="node" id="d1"/><key attr.name="Internal" attr.type="int" for="node" id="d2"/><key '
    'attr.name="LinkSpeed" attr.type="string" for="edge" id="d3"/><graph edgedefault="undirected"><data key="d9">x</data>'
    '<node id="0"><data key="d1">Rome</data><data key="d2">1.0</data></node><node id="1"><data key="d1">Oslo</data></node>'
    '<edge source="0" target="1"><data key="d3">10</data></edge><edge id="e1" source="0" target="1"/></graph></graphml>'
)
D3_PATH = {"nodes": [{"name": "Ann"}, {"name": "Bo"}, {"name": "Cy"}]}
XML = '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">{}</graphml>'
ABC = '<node id="a"/><node id="b"/><node id="c"/>'
GML = 'graph [ node [ id 1 label "Ann" ] node [ id 2 label "Bo" ] node [ id 3 label "Cy" ] '


def _json(**value: object) -> str:
    return json.dumps(value)


DIALECTS: dict[str, Dialect] = {
    "yEd": Dialect("a.graphml", yed(
        yed_node("n0", "Ann") + yed_node("n1", "Bo", "GenericNode") + yed_node("n2", "Cy", "UMLClassNode"),
        yed_edge("n0", "n1") + yed_edge("n2", "n1", "white_delta", "none") + yed_edge("n2", "n0", "none", "none")),
        "Ann Bo Cy", "Ann>Bo Ann-Cy Bo>Cy", "arrowhead"),
    "yEd without arrows": Dialect("a.graphml", yed(
        yed_node("n0", "Ann") + yed_node("n1", "Bo"), yed_edge("n0", "n1", "none", "none")), "Ann Bo", "Ann-Bo"),
    "yEd groups": Dialect("a.graphml", yed(
        yed_node("n0", "Site", "GroupNode", '<graph edgedefault="directed" id="n0:">' + yed_node("n0::n0", "Ann")
                 + yed_node("n0::n1", "Bo") + "</graph>"), yed_edge("n0::n0", "n0::n1")),
        "Ann Bo", "Ann>Bo", "'Site' only groups other nodes"),
    "yEd group with edges": Dialect("a.graphml", yed(
        yed_node("n0", "Site", "GroupNode", "<graph>" + yed_node("n0::n0", "Ann") + "</graph>"),
        yed_edge("n0", "n0::n0")), "Ann Site", "Site>Ann", "'Site' groups other nodes and has edges"),
    "Topology Zoo": Dialect("a.graphml", ZOO, "Oslo Rome", "Rome-Oslo Rome-Oslo"),
    "igraph": Dialect("a.graphml", XML.format(
        '<key id="v_name" for="node" attr.name="name" attr.type="string"/><key id="e_weight" for="edge" '
        'attr.name="weight" attr.type="double"/><graph id="G" edgedefault="undirected"><node id="n0"><data key="v_name">'
        'Ann</data></node><node id="n1"><data key="v_name">Bo</data></node><edge source="n0" target="n1"><data '
        'key="e_weight">0.5</data></edge></graph>'), "Ann Bo", "Ann-Bo", weights="0.5"),
    "Gephi": Dialect("a.graphml", XML.format(
        '<key attr.name="label" attr.type="string" for="node" id="label"/><key attr.name="Edge Label" attr.type="string" '
        'for="edge" id="edgelabel"/><key attr.name="weight" attr.type="double" for="edge" id="weight"/><key '
        'attr.name="r" attr.type="int" for="node" id="r"/><graph edgedefault="undirected"><node id="0.0"><data '
        'key="label">Ann</data><data key="r">0.5</data></node><node id="1.0"><data key="label">Bo</data></node><edge '
        'id="0" source="0.0" target="1.0"><data key="weight">1.0</data></edge></graph>'), "Ann Bo", "Ann-Bo",
        weights="1.0"),
    "Neo4j": Dialect("a.graphml", XML.format(
        '<key id="name" for="node" attr.name="name"/><key id="labels" for="node" attr.name="labels"/><graph id="G" '
        'edgedefault="directed"><node id="n0" labels=":Person"><data key="labels">:Person</data><data key="name">Ann'
        '</data></node><node id="n1" labels=":Person"><data key="name">Bo</data></node><edge id="e0" source="n0" '
        'target="n1" label="KNOWS"><data key="label">KNOWS</data></edge></graph>'), "Ann Bo", "Ann>Bo"),
    "NodeXL": Dialect("a.graphml", XML.format(
        '<key id="V-Label" for="node" attr.name="Label" attr.type="string"/><key id="E-Weight" for="edge" attr.name="Edge '
        'Weight" attr.type="string"/><graph edgedefault="undirected"><node id="u1"><data key="V-Label">Ann</data></node>'
        '<node id="u2"><data key="V-Label">Bo</data></node><edge source="u1" target="u2"><data key="E-Weight">2</data>'
        "</edge></graph>"), "Ann Bo", "Ann-Bo", weights="2"),
    "no namespace, mixed": Dialect("a.graphml", '<graphml><graph edgedefault="undirected">' + ABC + '<edge source="a" '
        'target="b" directed="true"/><edge source="b" target="c"/></graph></graphml>', "a b c", "a>b b-c"),
    "no edgedefault": Dialect("a.graphml", XML.format(f'<graph>{ABC}<edge source="a" target="b"/></graph><graph/>'),
        "a b c", "a-b", "no edgedefault"),
    "GraphML as XML": Dialect("a.xml", XML.format(f'<graph edgedefault="directed">{ABC}</graph>'), "a b c", ""),
    **{f"GEXF {space}": Dialect("a.gexf", gexf(space, "undirected", GEXF_NODES, GEXF_EDGES), "Ann Bo Cy", "Ann-Bo Bo-Cy",
        weights="2.5 None")
       for space in ("http://www.gexf.net/1.1draft", "http://www.gexf.net/1.2draft", "http://www.gexf.net/1.2",
                     "http://www.gexf.net/1.3", "http://www.gexf.net/1.3draft", "http://gexf.net/1.3", "http://gexf.net/1.2")},
    "GEXF mixed": Dialect("a.gexf", gexf("http://gexf.net/1.3", None, GEXF_NODES,
        '<edge source="0.0" target="1.0" type="directed"/><edge source="1.0" target="2.0" type="mutual"/>'),
        "Ann Bo Cy", "Ann>Bo Bo-Cy"),
    "GEXF hierarchy": Dialect("a.gexf", gexf("http://www.gexf.net/1.2draft", "undirected",
        '<node id="g" label="Site"><nodes><node id="a" label="Ann"/><node id="b" label="Bo"/></nodes></node>',
        '<edge source="a" target="b"/>'), "Ann Bo", "Ann-Bo", "'Site' only groups"),
    "GEXF changing weight": Dialect("a.gexf", gexf("http://gexf.net/1.3", "undirected", GEXF_NODES,
        '<edge source="0.0" target="1.0"><attvalues><attvalue for="7" value="1" end="2001"/><attvalue for="7" value="2"/>'
        "</attvalues></edge>", '<attributes class="edge" mode="dynamic"><attribute id="7" title="Weight" type="float"/>'
        "</attributes>"), "Ann Bo Cy", "Ann-Bo", "'weight' changes over time", weights="2"),
    "GEXF with empty weights": Dialect("a.gexf", gexf("http://gexf.net/1.3", "undirected", GEXF_NODES,
        '<edge source="0.0" target="1.0" weight=" "><attvalues><attvalue for="weight" value="2"/></attvalues></edge><edge '
        'source="1.0" target="2.0" weight=""/>'), "Ann Bo Cy", "Ann-Bo Bo-Cy", weights="2 None"),
    "GML of yEd": Dialect("a.gml", 'Creator "yFiles"\nVersion "2.19"\ngraph\n[\n\thierarchic\t1\n\tlabel\t""\n\tdirected\t1\n'
        '\tnode\n\t[\n\t\tid\t0\n\t\tgraphics\n\t\t[\n\t\t\tx\t1e5\n\t\t\tfill\t"#FFCC00"\n\t\t]\n\t\tLabelGraphics\n\t\t[\n'
        '\t\t\ttext\t"Ann"\n\t\t]\n\t]\n\tnode\n\t[\n\t\tid\t1\n\t\tlabel\t"Bo"\n\t]\n\tnode [ id 2 isGroup 1 label "Site" ]\n'
        "\tedge\n\t[\n\t\tsource\t0\n\t\ttarget\t1\n\t]\n]\n", "Ann Bo", "Ann>Bo", "'Site' only groups"),
    "GML of the Zoo": Dialect("a.gml", 'graph [\n  DateObtained "22/10/10"\n  GeoLocation "Züri &#228;"\n  Network "x"\n'
        '  node [\n id 0\n label "S&#227;o"\n Country "a\nb" ]\n node [ id 1 label "Rio # 1" ]\n  # comment\n'
        "  edge [ source 0 target 1 LinkSpeedRaw 1e+10 ]\n  edge [ source 0 target 1 ]\n]",
        "Rio_#_1 São", "São-Rio_#_1 São-Rio_#_1"),
    "GML without quotes": Dialect("a.gml", "Creator Gephi on a Monday 2020\ngraph [\n directed 0\n node [ id a_1 label Ann\n "
        "x-pos -.5 $odd NaN ]\n node [ id 2 label Bo ]\n edge [ source a_1 target 2 weight +1.5E-3 ] ]", "Ann Bo", "Ann-Bo",
        weights="+1.5E-3"),
    "GML of Cytoscape": Dialect("a.gml", 'Creator "Cytoscape"\nVersion 1.0\ngraph [ node [ root_index -1 id -1 graphics [ x 1.0 '
        'Line [ point [ x 1 ] ] ] label "Ann" ] node [ id -2 label "Bo" ] edge [ target -2 source -1 label "pp" ] ]',
        "Ann Bo", "Ann-Bo"),
    "GML with arrows": Dialect("a.gml", GML + 'edge [ source 1 target 2 graphics [ targetArrow "standard" ] ] ]', "Ann Bo Cy",
        "Ann-Bo", "drawn with arrows"),
    "GML with a directed edge": Dialect("a.gml", GML + "edge [ source 1 target 2 directed 1 ] edge [ source 2 target 3 ] ]",
        "Ann Bo Cy", "Ann>Bo Bo-Cy"),
    "GML with an undeclared end": Dialect("a.gml", GML + "edge [ source 1 target 9 ] ]", "Ann Bo Cy", "Ann-9"),
    "D3 v3": Dialect("a.json", _json(**D3_PATH, links=[{"source": 0, "target": 1}, {"source": 2, "target": 1, "value": 2}]),
        "Ann Bo Cy", "Ann-Bo Bo-Cy", "by their position"),
    "D3 with sizes": Dialect("a.json", _json(nodes=[{"name": "1", "value": 1}, {"name": "0", "value": 0}], links=[
        {"source": 0, "target": 1}]), "0 1", "0-1", "by their position"),
    "D3 by name": Dialect("a.json", _json(**D3_PATH, links=[{"source": "Ann", "target": "Cy"}]), "Ann Bo Cy", "Ann-Cy"),
    "D3 v5": Dialect("a.json", _json(nodes=[{"id": "Ann", "group": 1}, {"id": "Bo"}], links=[
        {"source": "Ann", "target": "Bo"}, {"source": "Bo", "target": "Ann"}]), "Ann Bo", "Ann-Bo"),
    "D3 after a simulation": Dialect("a.json", _json(nodes=[{"id": "a", "index": 0, "x": 1.5}, {"id": "b", "index": 1}],
        links=[{"source": {"id": "a", "index": 0, "x": 1.5}, "target": {"id": "b", "index": 1}, "index": 0}]), "a b", "a-b"),
    "networkx 1": Dialect("a.json", _json(directed=True, multigraph=False, graph=[], nodes=[{"id": "a"}, {"id": "b"}],
        links=[{"source": 0, "target": 1}]), "a b", "a>b", "by their position"),
    "adjacency": Dialect("a.json", _json(directed=False, multigraph=False, graph=[], nodes=[{"id": 0}, {"id": 1}, {"id": 2}],
        adjacency=[[{"id": 1, "weight": 2}], [{"id": 0, "weight": 2}, {"id": 2}], [{"id": 1}]]), "0 1 2", "0-1 1-2",
        weights="2 None"),
    "Cytoscape desktop": Dialect("a.cyjs", _json(format_version="1.0", data={"name": "x", "SUID": 51}, elements={
        "nodes": [{"data": {"id": "62", "shared_name": "Ann", "name": "Ann", "SUID": 62}, "position": {"x": 1}},
                  {"data": {"id": "63", "shared_name": "Bo", "name": "Bo", "SUID": 63}}],
        "edges": [{"data": {"id": "70", "source": "62", "target": "63", "name": "Ann (pp) Bo", "SUID": 70}}]}),
        "Ann Bo", "Ann-Bo"),
    "Cytoscape.js": Dialect("a.json", json.dumps([{"data": {"id": "a"}}, {"group": "nodes", "data": {"id": "b"}},
        {"data": {"id": "e", "source": "a", "target": "b", "weight": 3}}]), "a b", "a-b", weights="3"),
    "vis.js": Dialect("a.json", _json(nodes=[{"id": 1, "label": "Ann"}, {"id": 2, "label": "Bo"}], edges=[
        {"from": 1, "to": 2}]), "Ann Bo", "Ann-Bo"),
    "edges that say directed": Dialect("a.json", _json(nodes=["a", "b", "c"], edges=[
        {"source": u, "target": v, "directed": True} for u, v in ("ab", "bc", "ca", "ba")]), "a b c", "a>b b>a b>c c>a"),
    "directed and undirected edges": Dialect("a.json", _json(nodes=["a", "b", "c"], edges=[
        {"source": "a", "target": "b", "directed": "true"}, {"source": "b", "target": "c"}, {"source": "c", "target": "b"},
        {"source": "a", "target": "c", "directed": False}]), "a b c", "a>b a-c b-c"),
    "directed edges in Cytoscape": Dialect("a.cyjs", _json(elements={"nodes": [{"data": {"id": n}} for n in "ab"], "edges": [
        {"data": {"source": u, "target": v, "directed": 1}} for u, v in ("ab", "ba")]}), "a b", "a>b b>a"),
    "one-way links": Dialect("a.json", _json(nodes=["a", "b", "c"], edges=[{"source": "a", "target": "b", "bidirectional":
        False}, {"source": "b", "target": "c", "bidirectional": True}]), "a b c", "a>b b-c"),
    "type of Gephi": Dialect("a.json", _json(nodes=["a", "b"], edges=[{"source": "a", "target": "b", "type": "Directed"}]),
        "a b", "a>b"),
    "arrows of vis.js": Dialect("a.json", _json(nodes=[{"id": i} for i in "abcdef"], edges=[
        {"from": "a", "to": "b", "arrows": "to"}, {"from": "c", "to": "b", "arrows": {"from": {"enabled": True}}},
        {"from": "c", "to": "d", "arrows": "to, from"}, {"from": "d", "to": "e", "arrows": {"to": {"enabled": False}}},
        {"from": "e", "to": "f", "arrows": {"middle": True}}, {"from": "f", "to": "a"}]), "a b c d e f",
        "a>b b>c c-d d-e e>f a-f", "where their arrows do"),
    "arrows of all edges": Dialect("a.json", _json(nodes=[{"id": 1}, {"id": 2}, {"id": 3}], edges=[{"from": 1, "to": 2},
        {"from": 2, "to": 3, "arrows": ""}, {"from": 3, "to": 1, "arrows": {"from": True}}],
        options={"edges": {"arrows": {"to": {"enabled": True, "scaleFactor": 2}}}}), "1 2 3", "1>2 2-3 1-3", "arrows do"),
    "arrows of sigma.js, G6, React Flow": Dialect("a.json", _json(nodes=[{"id": n} for n in "abcd"], edges=[
        {"source": "a", "target": "b", "type": "arrow"}, {"source": "c", "target": "b", "style": {"startArrow": True}},
        {"source": "c", "target": "d", "markerEnd": {"type": "arrow"}}]), "a b c d", "a>b b>c c>d", "arrows do"),
    "arrows in a graph that says undirected": Dialect("a.json", _json(directed=False, nodes=["a", "b"], edges=[
        {"source": "a", "target": "b", "arrows": "to"}]), "a b", "a-b"),
    "arrows of a style": Dialect("a.json", _json(style=[{"selector": "edge", "style": {"target-arrow-shape": "vee"}}],
        elements={"nodes": [{"data": {"id": n}} for n in "ab"], "edges": [{"data": {"source": "a", "target": "b"}}]}), "a b",
        "a-b", "its style draws arrows"),
    "compound nodes": Dialect("a.json", json.dumps([{"data": {"id": "g", "name": "Site"}}, {"data": {"id": "a", "parent": "g",
        "name": "Ann"}}, {"data": {"id": "b", "parent": "g", "name": "Bo"}}, {"data": {"source": "a", "target": "b"}}]),
        "Ann Bo", "Ann-Bo", "'Site' only groups other nodes"),
    "compound node with edges": Dialect("a.cyjs", _json(elements={"nodes": [{"data": {"id": "g"}}, {"data": {"id": "a",
        "parent": "g"}}], "edges": [{"data": {"source": "a", "target": "g"}}]}), "a g", "a-g", "'g' groups other nodes and has"),
    "groups of React Flow": Dialect("a.json", _json(nodes=[{"id": "g", "type": "group"}, {"id": "a", "parentId": "g"},
        {"id": "b", "parentId": "g"}], edges=[{"source": "a", "target": "b"}]), "a b", "a-b", "'g' only groups"),
    "graphology": Dialect("a.json", _json(options={"type": "mixed"}, attributes={}, nodes=[
        {"key": "a", "attributes": {"label": "Ann", "x": 1}}, {"key": "b", "attributes": {"label": "Bo"}}, {"key": "c"}],
        edges=[{"key": "e", "source": "a", "target": "b"}, {"source": "b", "target": "c", "undirected": True}]),
        "Ann Bo c", "Ann>Bo Bo-c"),
    "JSON Graph Format": Dialect("a.json", _json(graph={"directed": False, "nodes": {"a": {"label": "Ann"}, "b": {
        "label": "Bo", "metadata": {"host": "h"}}}, "edges": [{"source": "a", "target": "b", "metadata": {"weight": 2}}]}),
        "Ann Bo", "Ann-Bo", weights="2"),
    "plain lists in JSON": Dialect("a.json", _json(nodes=["a", "b"], edges=[["a", "b", 0.5]]), "a b", "a-b", weights="0.5"),
    "decentralizepy": Dialect("a.edges", "3\n0 1\n1 0\n1 2\n2 1\n", "0 1 2", "0-1 1-2", "line 1 is read as the number of"),
    "KONECT": Dialect("out.edges", "% sym weighted\n% 2 3 3\n1 2 0.5 1199\n2 3 1 1200\n", "1 2 3", "1-2 2-3",
        "1 more not used", weights="0.5 1"),
    "KONECT directed": Dialect("a.edges", "% asym unweighted\n1 2\n2 1\n2 3\n", "1 2 3", "1>2 2>1 2>3", "directed, as"),
    "SNAP": Dialect("a.txt", "# Undirected graph: x.txt\n# Nodes: 3 Edges: 2\n# FromNodeId\tToNodeId\n0\t1\n1\t2\n", "0 1 2",
        "0-1 1-2"),
    "SNAP directed": Dialect("a.txt", "# Directed graph (each unordered pair once): x\n0\t1\n1\t2\n", "0 1 2", "0>1 1>2"),
    "numbers of nodes and edges": Dialect("a.txt", "3 2\n0 1\n1 2\n", "0 1 2", "0-1 1-2", "numbers of nodes and edges"),
    "other comments": Dialect("a.edgelist", "// made by hand\n; more\n% and\n# more\na b # the first\n\nb c\n", "a b c",
        "a-b b-c"),
    "Gephi's table": Dialect("a.csv", "\ufeffSource,Target,Type,Id,Label,timeset,Weight\r\nann,bo,Undirected,0,,,2.0\r\n"
        'bo,"Smith, ""C""",Directed,1,,,1.0\r\n', 'Smith,_"C" ann bo', 'ann-bo bo>Smith,_"C"', "line 1 is read as a header",
        weights="2.0 1.0"),
    "Excel's table": Dialect("a.csv", "sep=;\nfrom;to;weight\nNew York;Rome;0,5\nRome;Oslo;1\n", "New_York Oslo Rome",
        "New_York-Rome Rome-Oslo", "header", weights="0.5 1"),
    "columns elsewhere": Dialect("a.tsv", "id\tfrom_node\tto_node\n7\ta\tb\n8\tb\tc\n", "a b c", "a-b b-c", "header"),
    "header of two numbers": Dialect("a.csv", "node_1,node_2\nann,bo\nbo,cy\n", "ann bo cy", "ann-bo bo-cy", "header"),
    "labels like headers": Dialect("a.txt", "node1 node2\nnode2 node3\n", "node1 node2 node3", "node1-node2 node2-node3"),
    "header of relations": Dialect("a.csv", "Parent ID,child_name\nann,bo\nbo,cy\n", "ann bo cy", "ann-bo bo-cy", "header"),
    "header in German": Dialect("a.txt", "Von\tNach\nann\tbo\n", "ann bo", "ann-bo", "line 1 is read as a header"),
    "weights": Dialect("a.txt", "a b 0.5\nb c 2\n", "a b c", "a-b b-c", "column 3 is read as the weight;", weights="0.5 2"),
    "times": Dialect("a.txt", "0 1 1082040961\n1 2 1082155839\n", "0 1 2", "0-1 1-2", "though it looks like times"),
    "column of directions": Dialect("a.csv", "source,target,directed\na,b,True\nb,c,0\nb,a,yes\n", "a b c", "a>b b-c b>a",
        "read as a header"),
    "columns of no use": Dialect("a.csv", "source,target,cost\na,b,3\nb,c,4\n", "a b c", "a-b b-c", "not used: 'cost'"),
    "labels like short headers": Dialect("a.txt", "a b\nc d\n", "a b c d", "a-b c-d"),
    "Neo4j's table": Dialect("a.csv", ":START_ID,:END_ID,:TYPE\na,b,KNOWS\n", "a b", "a-b", "header"),
    "short header": Dialect("a.txt", "u v\n1 2\n2 3\n", "1 2 3", "1-2 2-3", "header"),
    "commas and spaces": Dialect("a.edges", "a, b\nb, c\n", "a b c", "a-b b-c"),
    "quotes and spaces": Dialect("a.txt", '"New York" Rome 2\nRome Oslo 1\n', "New_York Oslo Rome",
        "New_York-Rome Rome-Oslo", weights="2 1"),
    "two directions that differ": Dialect("a.txt", "a b 0.5\nb a 0.25\n", "a b", "a>b b>a", "directed", weights="0.5 0.25"),
    "some in both directions": Dialect("a.txt", "a b\nb a\nb c\n", "a b c", "a-b b-c", "1 of 2 edges are given in both"),
    "neighbors": Dialect("a.txt", "a b c d\nb c\nc\nd\n", "a b c d", "a-b a-c a-d b-c", "read as an adjacency list"),
    "counted neighbors": Dialect("a.txt", "4\n0 1 2 3\n1 2\n2\n3\n", "0 1 2 3", "0-1 0-2 0-3 1-2", "number of nodes, 4"),
    "circular weights": Dialect("a.edges", "1 2 3\n2 3 1\n3 1 2\n", "1 2 3", "1-2 2-3 1-3", weights="3 1 2"),
    "coordinates": Dialect("a.mtx", "3 3 2\n2 1 0.5\n3 2 1\n", "1 2 3", "1-2 2-3", "numbers of nodes and edges"),
    "GML in a text file": Dialect("a.txt", "Creator x\n" + GML + "edge [ source 1 target 2 ] ]", "Ann Bo Cy", "Ann-Bo",
        "read as GML"),
    "JSON in a text file": Dialect("a.txt", _json(nodes=["a", "b"], edges=[["a", "b"]]), "a b", "a-b", "read as node-link"),
    "GEXF in an XML file": Dialect("a.xml", gexf("http://gexf.net/1.3", "directed", GEXF_NODES, GEXF_EDGES), "Ann Bo Cy",
        "Ann>Bo Bo>Cy", "read as GEXF"),
    "Matrix Market": Dialect("a.mtx", "%%MatrixMarket matrix coordinate real symmetric\n% x\n3 3 2\n2 1 0.5\n3 2 1\n", "1 2 3",
        "2-1 3-2", weights="0.5 1"),
    "Matrix Market with zeros": Dialect("a.mtx", "%%MatrixMarket matrix coordinate real symmetric\n3 3 4\n2 1 0.5\n3 2 1\n"
        "3 1 0.0\n1 1 -0e3\n", "1 2 3", "2-1 3-2", "2 stored zeros are no edges", weights="0.5 1"),
    "Matrix Market, directed": Dialect("a.txt", "%%MatrixMarket matrix coordinate pattern general\n2 2 1\n2 1\n", "1 2",
        "2>1"),
    "Pajek": Dialect("a.net", '*Network x\r\n*Vertices 4\r\n1 "Ann B" 0.1 0.2 ellipse ic Red\r\n% x\r\n2 "Bo"\r\n*Arcs :1 "rel"\r\n'
        "1 2 0.5 c Blue\r\n*Edges\r\n2 3\r\n*Edgeslist\r\n3 4 1\r\n*Arcslist\r\n4 2\r\n*Partition x\r\n1\r\n", "3 4 Ann_B Bo",
        "Ann_B>Bo Bo-3 3-4 3-Ann_B 4>Bo", "*partition is not used", weights="0.5 None None None None"),
    "Pajek's matrix": Dialect("a.txt", "*vertices 2\n*matrix\n0 0.5\n0.25 0\n", "1 2", "1>2 2>1", "read as Pajek",
        weights="0.5 0.25"),
    "edges in a .net file": Dialect("a.net", "a b\nb c\n", "a b c", "a-b b-c"),
}  # fmt: skip

DOTS: dict[str, Dialect] = {
    "digraph": Dialect("a.dot", '/* x */ digraph "my net" { graph [rankdir=LR]; node [shape=box, host="h"]; '
        '"a b" [label="The\\nfirst"]; c:p1 -> "a b":n -> d [weight=2]; d -> c [dir=none]; e -> d [dir=back] }',
        "The_first c d e", "c>The_first The_first>d d-c d>e", "dir=none", weights="2 2 None None"),
    "subgraphs": Dialect("a.gv", "strict graph { subgraph cluster_0 { a; b; a -- b; subgraph { z } } {a b} -- {c} -- z\n"
        "# x\nb -- a // twice\n }", "a b c z", "a-b a-c b-c c-z"),
    "HTML label": Dialect("a.txt", "graph{a[label=<<b>x</b>>];1.5--a}", "1.5 a", "1.5-a", "read as DOT"),
    "arrows in a graph": Dialect("a.dot", "graph {edge [dir=forward]; a -- b}", "a b", "a-b", "have dir=forward"),
    "parallel": Dialect("a.dot", "graph {a -- b; a -- b; b -- b}", "a b", "a-b a-b b-b"),
}  # fmt: skip
