import { describe, expect, it } from "@jest/globals";
import { allowedEndpoints } from "../../../src/pipeline/subset.ts";
import { endpoint } from "./fakes.ts";

const pool = [
  endpoint("10.0.0.1", 8000),
  endpoint("10.0.0.1", 8001),
  endpoint("10.0.0.2", 8000),
  endpoint("fd00::1", 8000),
  endpoint("fd00::1", 8001),
];

describe("the subset", () => {
  it.each<[string, readonly string[] | undefined, readonly string[]]>([
    ["is the whole pool when there is none", undefined, pool.map(({ hostPort }) => hostPort)],
    ["allows nothing when it is empty", [], []],
    ["allows nothing when its entries are blank", ["", " , "], []],
    ["matches address and port exactly", ["10.0.0.1:8001"], ["10.0.0.1:8001"]],
    ["matches every port of a bare address", ["10.0.0.1"], ["10.0.0.1:8000", "10.0.0.1:8001"]],
    ["does not match another port of the address", ["10.0.0.2:9"], []],
    ["does not match an address by its beginning", ["10.0.0"], []],
    ["takes a comma-separated entry", ["10.0.0.2:8000, 10.0.0.1:8000"], ["10.0.0.1:8000", "10.0.0.2:8000"]],
    ["matches a bracketed IPv6 address with its port", ["[fd00::1]:8001"], ["[fd00::1]:8001"]],
    ["matches a bare IPv6 address", ["fd00::1"], ["[fd00::1]:8000", "[fd00::1]:8001"]],
    ["matches a bare IPv6 address in brackets", ["[FD00::1]"], ["[fd00::1]:8000", "[fd00::1]:8001"]],
    ["ignores entries that match nothing", ["10.9.9.9", "10.0.0.2"], ["10.0.0.2:8000"]],
  ])("%s", (_name, subset, allowed) => {
    expect(allowedEndpoints(pool, subset).map(({ hostPort }) => hostPort)).toEqual(allowed);
  });
});
