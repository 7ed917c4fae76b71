/**
 * The Gateway API Inference Extension's own conformance suite over Istio and a stock Envoy, with this picker in the place of the suite's: the same
 * arguments, and by its configuration the header by which the suite says where a request goes.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { type Cluster, startCluster } from "../cluster.ts";
import { toolBinary } from "../tools.ts";
import { echoImage, envoyImage, signalboxImage } from "./images.ts";
import { type Istio, startIstio } from "./istio.ts";

const pickerConfiguration = `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
  - type: header-based-testing-filter
  - type: random-picker
  - type: destination-endpoint-served-verifier
schedulingProfiles:
  - name: default
    plugins:
      - pluginRef: header-based-testing-filter
      - pluginRef: random-picker
`;

const tests = [
  "EppUnAvailableFailOpen",
  "GatewayDestinationEndpointServed",
  "GatewayFollowingEPPRouting",
  "GatewayFollowingEPPRoutingWithDataParallelism",
  "HTTPRouteInvalidInferencePoolRef",
  "HTTPRouteMultipleGatewaysDifferentPools",
  "HTTPRouteMultipleRulesDifferentPools",
  "InferencePoolAccepted",
  "InferencePoolAppProtocol",
  "InferencePoolHTTPRoutePortValidation",
  "InferencePoolInvalidEPPService",
  "InferencePoolMissingEPPRef",
  "InferencePoolResolvedRefsCondition",
] as const;

/** One rule of a route reaches two pools, and Istio asks the picker of only one of them: the gateway's limit, whoever picks. */
const beyondTheGateway = "GatewayWeightedAcrossTwoInferencePools";

const namespace = "inference-conformance-app-backend";
const pickers = ["primary", "secondary", "appprotocol-http", "appprotocol-h2c", "dp"] as const;
const suiteLimitMs = 15 * 60_000;

let cluster: Cluster | undefined;
let istio: Istio | undefined;
let output = "";
let story = "";

beforeAll(async () => {
  cluster = await startCluster({
    images: {
      // The suite's servers have no metrics to look for.
      lwepp: signalboxImage("epp", "--config-text", pickerConfiguration, "--refresh-metrics-interval=5s"),
      "echo-basic": echoImage(),
      "gateway-proxy": envoyImage(),
    },
    definitions: ["gateway-api", "inference-extension", "istio"],
  });
  istio = await startIstio(cluster);
  await cluster.apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } });
  for (const picker of pickers) {
    const name = `${picker}-endpoint-picker-svc`;
    await cluster.apply({
      apiVersion: "networking.istio.io/v1",
      kind: "DestinationRule",
      metadata: { name, namespace },
      spec: {
        host: `${name}.${namespace}.svc.cluster.local`,
        trafficPolicy: { tls: { mode: "SIMPLE", insecureSkipVerify: true } },
      },
    });
  }
  const suite = await cluster.run("gie-conformance", {
    command: [
      toolBinary("gie-conformance"),
      "-test.v",
      `-test.timeout=${suiteLimitMs / 1000}s`,
      "--gateway-class=istio",
      `--skip-tests=${beyondTheGateway}`,
    ],
    folder: cluster.folder,
    environment: { KUBECONFIG: cluster.plane.kubeconfig },
  });
  await suite.exited;
  output = await readFile(join(cluster.folder, "gie-conformance.log"), "utf8");
  story = await cluster.story();
}, suiteLimitMs + 120_000);

afterAll(async () => {
  await istio?.close();
  await cluster?.close();
});

/** Of a test by its name, or the end of what the suite said where it is not to be found. */
function verdictOf(test: string): string {
  const verdict = new RegExp(`^\\s*--- (PASS|FAIL|SKIP): \\w+/${test} `, "m").exec(output)?.[1];
  return verdict ?? `no verdict:\n${output.slice(-3000)}\n${story}`;
}

describe("the conformance suite of the Gateway API Inference Extension", () => {
  it.each(tests)("passes %s", (test) => {
    expect(verdictOf(test)).toBe("PASS");
  });

  it("has no other test", () => {
    const names = [...output.matchAll(/^ {4}--- \w+: \w+\/(\w+) /gm)].map(([, name]) => name);
    expect(new Set(names.filter((name) => name !== beyondTheGateway))).toEqual(new Set(tests));
  });
});
