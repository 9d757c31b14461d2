import asyncio

import pytest

NAME = "scale-out-payment-api"
ONE = f"/api/v1/runbooks/{NAME}"
STEP = {"type": "slack", "channel": "#c", "message": "m"}
NEW = {"steps": [STEP]}
WRONG = {"steps": [{**STEP, "chanel": "#d"}]}


async def put(web, name="new", content=None, **fields):
    return await web.call(
        "PUT", f"/api/v1/runbooks/{name}", NEW if content is None else content, roles=["author"], **fields
    )


async def get(web, path, **fields):
    return await web.call("GET", path, roles=["viewer"], **fields)


async def test_the_definitions_in_force_are_listed_by_name(web):
    await put(web, "another")
    answer = await get(web, "/api/v1/runbooks")
    assert [item["name"] for item in answer.body["items"]] == ["another", NAME]


async def test_a_definition_is_shown_with_its_version_as_etag(web):
    answer = await get(web, ONE)
    assert (answer.status, answer.headers["ETag"], answer.body["version"]) == (200, '"1"', 1)
    assert answer.body["runbook"]["steps"][1]["replicas"] == 5


async def test_what_is_shown_can_be_put_back_without_a_new_version(web):
    shown = (await get(web, ONE)).body
    answer = await put(web, NAME, shown["runbook"])
    assert (answer.status, answer.body["version"], answer.body["digest"]) == (200, 1, shown["digest"])


async def test_a_new_definition_is_in_force_when_it_is_answered(web, world):
    answer = await put(web)
    assert (answer.status, answer.headers["ETag"]) == (201, '"1"')
    assert (answer.body["name"], answer.body["version"], answer.body["changed_by"]) == ("new", 1, "ann")
    assert answer.body["digest"] == world.definitions.catalog.get("default", "new").digest
    assert (await web.execute("new")).status == 202


async def test_another_content_is_another_version(web):
    await put(web)
    answer = await put(web, content={"steps": [STEP, STEP]})
    assert (answer.status, answer.body["version"]) == (200, 2)
    listed = await get(web, "/api/v1/runbooks/new/versions")
    assert [(one["version"], len(one["runbook"]["steps"])) for one in listed.body["items"]] == [(2, 2), (1, 1)]


async def test_a_definition_belongs_to_its_tenant(web, world):
    await put(web, tenant="other")
    assert world.definitions.catalog.get("default", "new") is None
    assert (await get(web, "/api/v1/runbooks/new")).status == 404
    assert (await get(web, "/api/v1/runbooks/new/versions")).status == 404
    assert (await get(web, "/api/v1/runbooks/new", tenant="other")).status == 200
    assert (await web.call("DELETE", "/api/v1/runbooks/new", roles=["author"])).status == 404


async def test_name_and_tenant_may_stand_in_the_body_when_they_agree(web):
    assert (await put(web, content={**NEW, "name": "new", "tenant": "default"})).status == 201


@pytest.mark.parametrize(
    ("content", "path", "nearest"),
    [
        ({**NEW, "name": "newer"}, "name", None),
        ({**NEW, "name": 5}, "name", None),
        ({**NEW, "tenant": "other"}, "tenant", None),
        ({**NEW, "tenant": 5}, "tenant", None),
        (WRONG, "steps[0].chanel", "channel"),
        ({"steps": []}, "steps", None),
        ({**NEW, "trigger": {"condition": "1 +"}}, "trigger.condition", None),
    ],
)
async def test_a_wrong_definition_is_refused_with_its_path(web, world, content, path, nearest):
    answer = await put(web, content=content)
    assert answer.status == 400
    assert (path, nearest) in [(one["path"], one["nearest"]) for one in answer.body["problems"]]
    assert world.log.changes == []


@pytest.mark.parametrize("name", ["execute", "history", "validate", "-x", "a b", "x" * 101])
async def test_some_names_are_refused(web, world, name):
    answer = await put(web, name)
    assert (answer.status, answer.body["problems"][0]["path"]) == (400, "name")
    assert world.log.changes == []


class TestPreconditions:
    async def test_the_version_that_was_read_is_replaced(self, web):
        answer = await put(web, NAME, headers={"If-Match": '"1"'})
        assert (answer.status, answer.headers["ETag"]) == (200, '"2"')

    async def test_another_version_is_not(self, web, world):
        await put(web, NAME)
        answer = await put(web, NAME, {"steps": [STEP, STEP]}, headers={"If-Match": '"1"'})
        assert answer.status == 412
        assert answer.body["detail"] == "the runbook was not changed: it is at version 2, not 1"
        assert world.definitions.catalog.get("default", NAME).version == 2

    async def test_only_a_new_one_is_made(self, web):
        headers = {"If-None-Match": "*"}
        assert (await put(web, headers=headers)).status == 201
        assert (await put(web, content={"steps": [STEP, STEP]}, headers=headers)).status == 412

    async def test_only_an_old_one_is_replaced(self, web, world):
        headers = {"If-Match": "*"}
        assert (await put(web, headers=headers)).status == 412
        assert world.log.changes == []
        assert (await put(web, NAME, headers=headers)).status == 200
        assert world.log.changes[0].expected_version == 1  # so that a deletion meanwhile is noticed

    async def test_of_two_authors_who_read_the_same_one_wins(self, web):
        changes = [{"steps": [STEP] * count} for count in (1, 2, 3, 4)]
        answers = await asyncio.gather(*(put(web, NAME, one, headers={"If-Match": '"1"'}) for one in changes))
        assert sorted(answer.status for answer in answers) == [200, 412, 412, 412]

    @pytest.mark.parametrize(
        "headers",
        [
            {"If-Match": "1"},
            {"If-Match": 'W/"1"'},
            {"If-Match": '"0"'},
            {"If-Match": '"1", "2"'},
            {"If-Match": ""},
            {"If-None-Match": '"1"'},
            {"If-None-Match": "*", "If-Match": '"1"'},
        ],
    )
    async def test_what_is_not_understood_is_refused(self, web, world, headers):
        answer = await put(web, NAME, headers=headers)
        assert answer.status == 400
        assert world.log.changes == []


class TestDelete:
    async def test_it_is_out_of_force_and_its_versions_stay(self, web, world):
        answer = await web.call("DELETE", ONE, roles=["author"])
        assert (answer.status, answer.body) == (204, None)
        assert (await get(web, ONE)).status == 404
        assert [one["version"] for one in (await get(web, f"{ONE}/versions")).body["items"]] == [1]
        assert (await web.call("DELETE", ONE, roles=["author"])).status == 404
        assert len(world.log.changes) == 1

    async def test_a_version_can_be_named(self, web):
        refused = await web.call("DELETE", ONE, roles=["author"], headers={"If-Match": '"2"'})
        assert refused.status == 412
        assert (await web.call("DELETE", ONE, roles=["author"], headers={"If-Match": '"1"'})).status == 204

    async def test_a_new_one_goes_on_counting(self, web):
        await web.call("DELETE", ONE, roles=["author"])
        answer = await put(web, NAME)
        assert (answer.status, answer.body["version"]) == (201, 2)


async def test_a_change_that_is_not_in_force_in_time_says_so(web, world):
    world.definitions.behind = True
    answer = await put(web)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    assert len(world.log.changes) == 1
    assert (await web.call("DELETE", ONE, roles=["author"])).status == 503


class TestValidate:
    @pytest.mark.parametrize("role", ["viewer", "author"])
    async def test_a_right_one_gets_the_digest_that_putting_it_gives(self, web, world, role):
        content = {**NEW, "name": "new", "tenant": "default"}
        answer = await web.call("POST", "/api/v1/runbooks/validate", content, roles=[role])
        assert (answer.status, answer.body["valid"], answer.body["problems"]) == (200, True, [])
        assert world.log.changes == []
        assert (await put(web)).body["digest"] == answer.body["digest"]

    async def test_a_wrong_one_is_told_every_problem(self, web):
        content = {**WRONG, "name": "new", "tenannt": "default"}
        answer = await web.call("POST", "/api/v1/runbooks/validate", content, roles=["author"])
        assert (answer.status, answer.body["valid"], answer.body["digest"]) == (200, False, None)
        found = [(one["path"], one["nearest"]) for one in answer.body["problems"]]
        assert {("steps[0].chanel", "channel"), ("tenannt", "tenant")} <= set(found)

    async def test_another_tenant_is_a_problem(self, web):
        content = {**NEW, "name": "new", "tenant": "other"}
        answer = await web.call("POST", "/api/v1/runbooks/validate", content, roles=["author"])
        assert [one["path"] for one in answer.body["problems"]] == ["tenant"]

    async def test_what_is_no_object_is_refused(self, web):
        assert (await web.call("POST", "/api/v1/runbooks/validate", raw=b"[]", roles=["author"])).status == 400
