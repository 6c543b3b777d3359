-- SPDX-License-Identifier: Apache-2.0
local registry = require("flowd.registry")
local cleanup = require("spec.support.cleanup")
local temp = require("spec.support.temp")

local function parse(text) return registry.parse(text, "api.json") end

-- One experiment with the given JSON of its activities.
local function with_activities(text)
  return parse('{"version": 1, "experiments": [{"expName": "atlas", "expId": 2, "activities": [' .. text .. "]}]}")
end

local function problem_of(_, problems)
  assert.is_nil(_)
  assert.equal(1, #problems)
  return problems[1]
end

describe("the built-in registry", function()
  local names = registry.load_embedded()

  it("knows names and ids in both directions", function()
    assert.equal(2, names:experiment_id("atlas"))
    assert.equal("atlas", names:experiment_name(2))
    assert.equal(26, names:activity_id(2, "Data Challenge"))
    assert.equal(4, names:activity_id(3, "Data Challenge"))
    assert.equal("Data Challenge", names:activity_name(2, 26))
    assert.equal(14, names:experiment_id("xenon"))
    assert.equal(1, names:activity_id(14, "default"))
    names:each(function(experiment, experiment_name, activity, activity_name)
      assert.equal(experiment, names:experiment_id(experiment_name))
      if activity then assert.equal(activity, names:activity_id(experiment, activity_name)) end
    end)
  end)

  it("compares names without case, blank and _ being equal", function()
    assert.equal(2, names:experiment_id("ATLAS"))
    assert.equal(26, names:activity_id(2, "data_challenge"))
    assert.equal(22, names:activity_id(2, "UPLOAD/DOWNLOAD_(job)"))
  end)

  it("takes ids, also as digits, known or not", function()
    assert.equal(2, names:experiment_id("2"))
    assert.equal(300, names:experiment_id(300))
    assert.equal(63, names:activity_id(300, "63"))
  end)

  it("refuses ids out of range and unknown names", function()
    local function message(_, text)
      assert.is_nil(_)
      return text
    end
    assert.equal("experiment 512: expected an id from 1 to 511", message(names:experiment_id(512)))
    assert.equal("experiment 0: expected an id from 1 to 511", message(names:experiment_id("0")))
    assert.equal("experiment 1.5: expected an id from 1 to 511", message(names:experiment_id(1.5)))
    assert.equal("activity 64: expected an id from 1 to 63", message(names:activity_id(2, 64)))
    assert.equal('unknown experiment "atals" — did you mean "atlas"?', message(names:experiment_id("atals")))
    assert.equal('unknown activity of cms "Data Chalenge" — did you mean "Data Challenge"?',
      message(names:activity_id(3, "Data Chalenge")))
    assert.equal('activity "x": the registry has no experiment 300', message(names:activity_id(300, "x")))
    assert.equal("experiment: expected a name or an id from 1 to 511, got table", message(names:experiment_id({})))
    assert.equal("activity: expected a name or an id from 1 to 63, got boolean", message(names:activity_id(2, true)))
  end)

  it("describes a tag", function()
    assert.equal("atlas (2) / Data Challenge (26)", names:describe(2, 26))
    assert.equal("unknown (99) / unknown (5)", names:describe(99, 5))
    assert.equal("unset / unset", names:describe(0, 0))
  end)

  it("lists in the order of the ids", function()
    local last_experiment, last_activity, count = 0, 0, 0
    names:each(function(experiment, _, activity)
      if not activity then
        assert.is_true(experiment > last_experiment)
        last_experiment, last_activity = experiment, 0
      else
        assert.equal(last_experiment, experiment)
        assert.is_true(activity > last_activity)
        last_activity = activity
      end
      count = count + 1
    end)
    assert.equal(128, count)
  end)
end)

describe("a registry file", function()
  after_each(cleanup.all)

  it("in the published form is read", function()
    local path = temp.write(temp.dir() .. "/api.json", [[{"version": 1, "modified": "2030-01-01", "experiments": [
      {"expName": "new", "expId": 500, "activities": [{"activityName": "Some Thing", "activityId": 7, "more": null}]},
      {"expName": "old", "expId": 3, "activities": []}], "other": {}}]])
    local names = registry.load_file(path)
    assert.equal(7, names:activity_id(names:experiment_id("NEW"), "some_thing"))
    assert.equal(path, names.source)
    assert.equal("2030-01-01", names.modified)
    assert.equal("old", names.experiments[1].name)
  end)

  it("that is missing, empty or no file is refused", function()
    local dir = temp.dir()
    local _, message = registry.load_file(dir .. "/none.json")
    assert.truthy(message:find("none.json: No such file", 1, true))
    _, message = registry.load_file(temp.write(dir .. "/empty.json", ""))
    assert.equal(dir .. "/empty.json: the file is empty or cannot be read", message)
    _, message = registry.load_file(dir)
    assert.equal(dir .. ": the file is empty or cannot be read", message)
    _, message = registry.load_file(temp.write(dir .. "/big.json", (" "):rep(4 * 1024 * 1024 + 1)))
    assert.equal(dir .. "/big.json: larger than 4194304 octets", message)
  end)

  it("that is no JSON is refused with line and column", function()
    assert.truthy(problem_of(parse('{"version": 1,\n oops}')):find("^api.json:2:5: not JSON: "))
  end)

  it("of another form is refused", function()
    assert.equal('api.json: expected a JSON object with "experiments"', problem_of(parse("5")))
    assert.equal('api.json: expected a JSON object with "experiments"', problem_of(parse("[{}]")))
    assert.equal("api.json: version: expected 1, got 2", problem_of(parse('{"version": 2}')))
    assert.equal("api.json: version: expected 1, got nil", problem_of(parse("{}")))
    assert.equal("api.json: experiments: expected a list", problem_of(parse('{"version": 1}')))
    assert.equal("api.json: experiments: expected a list", problem_of(parse('{"version": 1, "experiments": {"a": 1}}')))
    assert.equal("api.json: experiments: expected at least one", problem_of(parse('{"version": 1, "experiments": []}')))
    assert.equal("api.json: experiment 1: expected an object", problem_of(parse('{"version": 1, "experiments": [5]}')))
    assert.equal("api.json: experiment 1: activities: expected a list",
      problem_of(parse('{"version": 1, "experiments": [{"expName": "a", "expId": 1}]}')))
    assert.equal("api.json: experiment 1, activity 1: expected an object", problem_of(with_activities("7")))
  end)

  it("with wrong ids, names or duplicates is refused, with all that is wrong", function()
    assert.equal("api.json: experiment atlas, activity 1, id: expected an id from 1 to 63, got 64",
      problem_of(with_activities('{"activityName": "a", "activityId": 64}')))
    assert.equal("api.json: experiment atlas, activity 1, id: expected an id from 1 to 63, got 1.5",
      problem_of(with_activities('{"activityName": "a", "activityId": 1.5}')))
    assert.equal("api.json: experiment atlas, activity 1, id: expected an id from 1 to 63, got nil",
      problem_of(with_activities('{"activityName": "a"}')))
    assert.equal("api.json: experiment atlas, activity 1, name: expected a name of 1 to 100 characters, got number",
      problem_of(with_activities('{"activityName": 5, "activityId": 1}')))
    assert.equal('api.json: experiment atlas, activity 2: id 1 is both "a" and "b"',
      problem_of(with_activities('{"activityName": "a", "activityId": 1}, {"activityName": "b", "activityId": 1}')))
    assert.equal('api.json: experiment atlas, activity 2: the name "A_B" has two ids, 1 and 2',
      problem_of(with_activities('{"activityName": "a b", "activityId": 1}, {"activityName": "A_B", "activityId": 2}')))
    local _, problems = parse([[{"version": 1, "experiments": [
      {"expName": "a", "expId": 0, "activities": []}, {"expName": "", "expId": 1, "activities": []},
      {"expName": "b", "expId": 2, "activities": []}, {"expName": "B", "expId": 3, "activities": []},
      {"expName": "c", "expId": 2, "activities": []}]}]])
    assert.same({
      "api.json: experiment 1, id: expected an id from 1 to 511, got 0",
      'api.json: experiment 2, name: expected a name of 1 to 100 characters, got ""',
      'api.json: experiment 4: the name "B" has two ids, 2 and 3',
      'api.json: experiment 5: id 2 is both "b" and "c"',
    }, problems)
  end)
end)
