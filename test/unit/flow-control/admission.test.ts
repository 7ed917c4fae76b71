import { describe, expect, it } from "@jest/globals";
import { createSheddingAdmission } from "../../../src/flow-control/admission.ts";
import { InferenceRequest } from "../../../src/request/inference-request.ts";
import { opaqueBody } from "../../../src/request/parsed-body.ts";
import type { Rejection } from "../../../src/request/rejection.ts";

function withPriority(priority: number): InferenceRequest {
  const request = new InferenceRequest({
    id: "r1",
    method: "POST",
    path: "/v1/completions",
    headers: new Map(),
    body: Buffer.alloc(0),
    parsed: opaqueBody,
    receivedAtMs: 0,
  });
  request.priority = priority;
  return request;
}

describe("shedding", () => {
  it.each([
    [-1, 1, true],
    [-1, 1.7, true],
    [-1, 0.999, false],
    [0, 9, false],
    [5, 9, false],
  ])("of priority %d at saturation %d is %s", (priority, saturation, isShed) => {
    const admission = createSheddingAdmission({ detector: () => ({ saturation: () => saturation }), now: () => 0 });
    const answers: (Rejection | undefined)[] = [];
    expect(admission.admit(withPriority(priority), [], (rejection) => answers.push(rejection))).toBeUndefined();
    expect(answers).toHaveLength(1);
    if (isShed) {
      expect(answers[0]).toMatchObject({
        code: "ResourceExhausted",
        message: "system saturated, sheddable request dropped",
        droppedReason: undefined,
      });
    } else expect(answers[0]).toBeUndefined();
  });

  it("asks the detector of the moment, and not at all for requests that are never shed", () => {
    let asked = 0;
    const admission = createSheddingAdmission({
      detector: () => ({
        saturation: () => {
          asked += 1;
          return 2;
        },
      }),
      now: () => 0,
    });
    admission.admit(withPriority(0), [], () => {});
    expect(asked).toBe(0);
    admission.admit(withPriority(-1), [], () => {});
    expect(asked).toBe(1);
  });
});
