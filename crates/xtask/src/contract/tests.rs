use super::*;
use serde_json::json;

fn document() -> Value {
    serde_json::from_str(&meshwright_api::openapi()).expect("a document")
}

/// Changes of the document, each with a part of the message that must report it.
fn bad() -> [(&'static str, Option<Value>, &'static str); 16] {
    [
        ("/paths/~1v1~1meshes", None, "POST /v1/meshes is gone"),
        ("/paths/~1v1~1meshes/get", None, "GET /v1/meshes is gone"),
        (
            "/paths/~1v1~1meshes/get/operationId",
            Some(json!("allMeshes")),
            "is called",
        ),
        (
            "/paths/~1v1~1meshes/get/parameters/0",
            None,
            "does not take",
        ),
        (
            "/paths/~1v1~1meshes/get/parameters/0/required",
            Some(json!(true)),
            "needs",
        ),
        (
            "/paths/~1v1~1meshes/post/responses/202",
            None,
            "does not answer 202",
        ),
        (
            "/paths/~1v1~1meshes~1{mesh_id}~1restarts/post/requestBody",
            Some(json!({ "required": true })),
            "needs a body",
        ),
        (
            "/components/schemas/Mesh/properties/state",
            None,
            "state is gone",
        ),
        (
            "/components/schemas/Mesh/properties/deletion_protection/type",
            Some(json!("string")),
            "became",
        ),
        (
            "/components/schemas/Mesh/required",
            Some(json!([])),
            "may be missing",
        ),
        (
            "/components/schemas/CreateMesh/properties/edition",
            None,
            "edition is gone",
        ),
        (
            "/components/schemas/CreateMesh/required",
            Some(json!(["name", "version", "clusters", "edition"])),
            "must be sent",
        ),
        (
            "/components/schemas/Wave/properties/steps/items",
            Some(json!({ "type": "string" })),
            "became",
        ),
        (
            "/components/schemas/Problem/properties/code",
            None,
            "code is gone",
        ),
        (
            "/components/schemas/Mesh/properties/name/type",
            Some(json!(["string", "null"])),
            "became",
        ),
        (
            "/components/schemas/CreateMesh/properties/labels/type",
            Some(json!("null")),
            "became",
        ),
    ]
}

#[test]
fn every_seeded_break_is_found() {
    for (pointer, value, said) in bad() {
        let mut changed = document();
        let (parent, last) = pointer.rsplit_once('/').expect("a place");
        let last = last.replace("~1", "/");
        let parent = changed
            .pointer_mut(parent)
            .unwrap_or_else(|| panic!("{pointer}"));
        match (parent, value) {
            (Value::Object(fields), Some(value)) => drop(fields.insert(last, value)),
            (Value::Object(fields), None) => {
                assert!(fields.remove(&last).is_some(), "{pointer}");
            }
            (Value::Array(array), None) => drop(array.remove(last.parse().expect("a number"))),
            _ => panic!("{pointer}"),
        }
        let found = find_breaking_changes(&document(), &changed);
        assert!(
            found.iter().any(|line| line.contains(said)),
            "{pointer}: {found:?}"
        );
    }
}

#[test]
fn a_request_keeps_the_values_that_it_accepted() {
    let mut changed = document();
    let fields = &mut changed["components"]["schemas"]["CreateMesh"]["properties"];
    fields["edition"]["enum"] = json!(["standard", "enterprise"]);
    fields["display_name"]["enum"] = json!(["ours"]);
    let found = find_breaking_changes(&document(), &changed).join("\n");
    for said in [
        "not accept \"ultimate\" any more",
        "no more than [\"ours\"]",
    ] {
        assert!(found.contains(said), "{found}");
    }
}

/// Answers named no closed sets in the first releases, although their fields had no other
/// values. To list these values, or a new one, takes nothing from a client.
#[test]
fn an_answer_may_list_its_values_and_get_new_ones() {
    let states = "/components/schemas/Mesh/properties/state";
    let mut without = document();
    let field = without.pointer_mut(states).expect("a field");
    let listed = field.as_object_mut().expect("an object").remove("enum");
    assert!(listed.is_some_and(|listed| listed.is_array()));
    let mut more = document();
    let values = more.pointer_mut(states).expect("a field")["enum"].as_array_mut();
    values.expect("values").push(json!("dreaming"));
    for (old, new) in [(&without, &document()), (&document(), &more)] {
        assert_eq!(find_breaking_changes(old, new), Vec::<String>::new());
    }
}

#[test]
fn what_only_adds_breaks_nothing() {
    let mut changed = document();
    changed["paths"]["/v1/moons"] =
        json!({ "get": { "operationId": "listMoons", "responses": {} } });
    changed["components"]["schemas"]["Mesh"]["properties"]["moons"] = json!({ "type": "integer" });
    changed["components"]["schemas"]["CreateMesh"]["properties"]["moons"] =
        json!({ "type": "integer" });
    let edition = &mut changed["components"]["schemas"]["CreateMesh"]["properties"]["edition"];
    edition["type"] = json!(["string", "null"]);
    edition["enum"] = json!(["standard", "enterprise", "ultimate", "cosmic", null]);
    let parameter =
        json!({ "name": "moon", "in": "query", "required": false, "schema": { "type": "string" } });
    changed["paths"]["/v1/meshes"]["get"]["parameters"]
        .as_array_mut()
        .expect("parameters")
        .push(parameter);
    assert_eq!(
        find_breaking_changes(&document(), &changed),
        Vec::<String>::new()
    );
    assert_eq!(
        find_breaking_changes(&document(), &document()),
        Vec::<String>::new()
    );
}
