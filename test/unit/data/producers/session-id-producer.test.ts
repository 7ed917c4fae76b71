import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect, it } from "@jest/globals";
import { sessionIdKey } from "../../../../src/data/attributes.ts";
import { SessionIdProducer, sessionIdProducerDefinition } from "../../../../src/data/producers/session-id-producer.ts";
import { requestOf } from "./pool.ts";

describe("session-id-producer", () => {
  it.each([
    [{ headerName: "X-Session-Id" }, { "x-session-id": " abc " }, "abc"],
    [{ headerName: "x-session-id" }, { "x-session-id": "  " }, undefined],
    [{ headerName: "x-session-id" }, {}, undefined],
    [{ headerName: "x-session-id" }, { cookie: "x-session-id=abc" }, undefined],
    [{ cookieName: "sid" }, { cookie: "sid=abc" }, "abc"],
    [{ cookieName: "sid" }, { cookie: "asid=1; sid=a=b=c; sid=second" }, "a=b=c"],
    [{ cookieName: "sid" }, { cookie: "flag; sid ;sid=;  sid=late" }, undefined],
    [{ cookieName: "sid" }, { cookie: "flag;;other=sid;sid=abc;" }, "abc"],
    [{ cookieName: "sid" }, { cookie: "SID=abc" }, undefined],
    [{ cookieName: "sid" }, {}, undefined],
  ])("with %j finds in %j the session %j", (parameters, headers, session) => {
    const request = requestOf({ kind: "opaque" }, { headers: { ...headers } });
    new SessionIdProducer(parameters).produce(request);
    expect(request.attribute(sessionIdKey)).toBe(session);
  });

  it("publishes an id that does not keep the rest of the cookies alive", () => {
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc") as () => void;
    const producer = new SessionIdProducer({ cookieName: "sid" });
    const remembered: unknown[] = [];
    collect();
    const before = process.memoryUsage().heapUsed;
    for (let session = 0; session < 500; session++) {
      const cookie = Buffer.from(`sid=a-session-of-a-client-${session}; rest=${"x".repeat(60_000)}`).toString();
      const request = requestOf({ kind: "opaque" }, { headers: { cookie } });
      producer.produce(request);
      remembered.push(request.attribute(sessionIdKey));
    }
    collect();
    expect(new Set(remembered).size).toBe(500);
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(10_000_000);
  });

  it.each([
    [{ headerName: "a" }, 0],
    [{ cookieName: "a" }, 0],
    [{}, 1],
    [{ headerName: " " }, 1],
    [{ headerName: "a", cookieName: "b" }, 1],
  ])("of %j reports %i faults", (parameters, faults) => {
    expect(sessionIdProducerDefinition.validate?.(parameters)).toHaveLength(faults);
  });
});
