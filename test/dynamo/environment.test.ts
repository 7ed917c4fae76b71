/**
 * The picker as Dynamo's manifests run it, by variables alone, and with a configuration of Dynamo's picker in Go: both serve a real disaggregated
 * stack, and its page of metrics has Dynamo's names.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { type Child, type EppPorts, startEppChild } from "../../src/app/child.ts";
import { findEnvoy, packageRoot, type RunningEnvoy, startEnvoy } from "../../src/app/envoy.ts";
import { eventually } from "../stack.ts";
import { send } from "./client.ts";
import { type DynamoStack, startDynamo } from "./stack.ts";

const goConfiguration = `
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: disagg-profile-handler
- name: prefill-filter
  type: label-filter
  parameters: {label: nvidia.com/dynamo-sub-component-type, validValues: [prefill], allowsNoLabel: false}
- name: decode-filter
  type: label-filter
  parameters: {label: nvidia.com/dynamo-sub-component-type, validValues: [decode], allowsNoLabel: false}
- {name: picker, type: max-score-picker}
- {name: dyn-prefill, type: dyn-prefill-scorer}
- {name: dyn-decode, type: dyn-decode-scorer}
schedulingProfiles:
- name: prefill
  plugins: [{pluginRef: prefill-filter}, {pluginRef: dyn-prefill, weight: 1}, {pluginRef: picker}]
- name: decode
  plugins: [{pluginRef: decode-filter}, {pluginRef: dyn-decode, weight: 1}, {pluginRef: picker}]
`;
const words = Array.from({ length: 100 }, (_, index) => `word${index}`).join(" ");
const scratch = mkdtempSync(join(tmpdir(), "signalbox-environment-"));
const goFile = join(scratch, "epp.yaml");
writeFileSync(goFile, goConfiguration);

let stack: DynamoStack;
beforeAll(async () => {
  stack = await startDynamo({ layout: "disaggregated", prefill: 1, decode: 2 });
});
afterAll(async () => {
  await stack?.close();
  rmSync(scratch, { recursive: true, force: true });
});

describe.each([
  ["variables alone", []],
  ["a configuration of the picker in Go", [`--config-file=${goFile}`]],
] as const)("a picker started by %s", (_name, configuration) => {
  let picker: Child<EppPorts>;
  let envoy: RunningEnvoy;
  const admin = async (path: string): Promise<string> =>
    await (await fetch(`http://127.0.0.1:${picker.ready.metricsPort}${path}`)).text();
  const sample = async (name: string): Promise<number> => {
    const line = (await admin("/metrics")).split("\n").find((text) => text.startsWith(name));
    return Number(line?.slice(line.lastIndexOf(" ") + 1));
  };

  beforeAll(async () => {
    picker = await startEppChild([...configuration], {
      environment: {
        ...stack.environment,
        DYN_SECURE_SERVING: "false",
        DYN_COMPONENT_NAME: "backend",
        DYN_EPP_GRACEFUL_SHUTDOWN_PROPAGATION_SECS: "0",
        DYN_EPP_UNHEARD_OF: "1",
        DYN_TCP_RESPONSE_STREAM_HOST: "127.0.0.1",
        DYN_EVENT_PLANE_HOST: "127.0.0.1",
        SIGNALBOX_DYNAMO_FRONTEND: new URL(stack.frontend.url).host,
      },
    });
    envoy = await startEnvoy({
      mode: "full-duplex",
      template: join(packageRoot, "deploy/dynamo/envoy.yaml"),
      binary: findEnvoy(process.env),
      picker: { port: picker.ready.grpcPort, tls: false },
      listenPort: 0,
    });
    await eventually("the picker is ready", async () => (await admin("/readyz")) === "ok\n", 20_000);
  });
  afterAll(async () => {
    await envoy?.close();
    await picker?.close();
  });

  it("serves requests on the workers that it chose, and counts them as Dynamo does", async () => {
    const body = { model: stack.model, max_tokens: 8, messages: [{ role: "user", content: words }] };
    for (let index = 0; index < 4; index++) {
      const answer = await send(`${envoy.url}/v1/chat/completions`, { body });
      expect([answer.status, answer.text.slice(0, 200)]).toEqual([200, expect.stringContaining("chatcmpl")]);
    }
    await eventually("all four have ended", async () => (await sample("dynamo_component_router_requests_total")) === 4);
    const page = await admin("/metrics");
    const at = `dynamo_namespace="${stack.namespace}"`;
    for (const expected of [
      `dynamo_component_router_requests_started_total{${at},dynamo_component="backend"} 4`,
      `dynamo_component_router_input_sequence_tokens_count{${at},dynamo_component="backend",phase="prefill",model="${stack.model}"} 4`,
      `dynamo_component_router_input_sequence_tokens_count{${at},dynamo_component="backend",phase="decode",model="${stack.model}"} 4`,
      `dynamo_component_router_output_sequence_tokens_count{${at},dynamo_component="backend"} 4`,
      `dynamo_component_router_time_to_first_token_seconds_count{${at},dynamo_component="backend"} 4`,
      `dynamo_component_router_kv_hit_rate_count{${at},dynamo_component="backend"} 4`,
      "dynamo_router_overhead_total_ms_count 4",
      `dynamo_epp_cached_tokens_count{model="${stack.model}"} 4`,
      `dynamo_frontend_router_admission_received_total{model="${stack.model}",worker_type="prefill",policy_class="default"} 4`,
      `llm_d_epp_dynamo_worker_sets{state="ready"} 1`,
      `llm_d_epp_dynamo_bookings{model="${stack.model}",${at}} 0`,
    ]) {
      expect(page).toContain(expected);
    }
    expect(page.match(/^dynamo_component_router_worker_registered\{/gm)).toHaveLength(3);
    expect(await sample("llm_d_epp_dynamo_recoveries_total")).toBeGreaterThan(0);
    await eventually("events of the prefill worker are in", async () => {
      const stored = await sample(
        `dynamo_component_kv_cache_events_applied{${at},dynamo_component="backend",event_type="stored",status="ok"}`,
      );
      return stored > 0 && (await sample("llm_d_epp_dynamo_index_blocks")) > 0;
    });
    expect(page).not.toMatch(/dynamo_epp_(rejections|endpoint_mismatch)_total\{/);
  });

  it("says which variable means nothing, and where its configuration is from", async () => {
    expect(picker.lines.join("\n")).toContain("DYN_EPP_UNHEARD_OF is unknown and has no effect");
    const { source } = JSON.parse(await admin("/debug/config")) as { source: string };
    expect(source).toBe(configuration.length === 0 ? "the environment (DYN_*)" : goFile);
  });
});
