import { describe, expect, it } from "@jest/globals";
import {
  createFrontendMap,
  frontendMapFaults,
  parseFrontendList,
} from "../../../../../src/data/discovery/dynamo/frontend-map.ts";

const worker = { instanceId: 18446744073709551615n, stableRoutingId: "pod-0", host: "10.0.0.5" };
const one = { address: "10.0.0.1", port: 8000 };

describe("createFrontendMap", () => {
  it.each(["18446744073709551615", "0xffffffffffffffff", "pod-0", "10.0.0.5"])("finds a worker named as %s", (name) => {
    const map = createFrontendMap({
      frontend: "10.0.0.9:1",
      frontendPort: 2,
      frontends: [{ worker: name, address: "10.0.0.1:8000" }],
    });
    expect(map.find(worker)).toEqual(one);
    expect(map.find({ instanceId: 1n, stableRoutingId: undefined, host: undefined })).toEqual({
      address: "10.0.0.9",
      port: 1,
    });
  });

  it("prefers the port beside the worker to the shared frontend", () => {
    const map = createFrontendMap({ frontend: "10.0.0.9:1", frontendPort: 8000 });
    expect(map.find(worker)).toEqual({ address: "10.0.0.5", port: 8000 });
    expect(map.find({ ...worker, host: undefined })).toEqual({ address: "10.0.0.9", port: 1 });
  });

  it("finds nothing where nothing is said", () => {
    expect(createFrontendMap({}).find(worker)).toBeUndefined();
  });
});

describe("frontendMapFaults", () => {
  it("names every fault", () => {
    expect(
      frontendMapFaults({
        frontend: "nowhere",
        frontends: [
          { worker: "a", address: "10.0.0.1:0" },
          { worker: "a", address: "[fd00::1]:80" },
        ],
      }),
    ).toEqual([
      'frontend: "nowhere": expected ip:port',
      'frontends[0].address: "10.0.0.1:0": the port must be 1 to 65535',
      'frontends[1].worker: "a" is listed already',
    ]);
  });
});

describe("a list of frontends", () => {
  it.each([
    [["10.0.0.9:1"], { frontend: "10.0.0.9:1" }],
    [[":8000"], { frontendPort: 8000 }],
    [
      ["[fd00::1]:8000", "0x1f=[fd00::2]:8000"],
      { frontend: "[fd00::1]:8000", frontends: [{ worker: "0x1f", address: "[fd00::2]:8000" }] },
    ],
    [[], {}],
  ])("%j is %j", (entries, parameters) => {
    expect(parseFrontendList(entries)).toEqual({ parameters, faults: [] });
  });

  it.each([
    [[":0"], '":0": the port must be 1 to 65535'],
    [["10.0.0.1:1", "10.0.0.2:1"], '"10.0.0.2:1": a frontend of all workers is named already'],
    [[":1", ":2"], '":2": a port beside each worker is named already'],
    [["host:8000"], 'frontend: "host:8000": "host" is no IPv4 or bracketed IPv6 address'],
    [["7=host"], 'frontends[0].address: "host": expected ip:port'],
  ])("%j is refused", (entries, fault) => {
    expect(parseFrontendList(entries).faults).toEqual([fault]);
  });
});
