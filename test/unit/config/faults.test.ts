/** Every rule of a configuration that can be broken, with the path and the words an operator reads. */
import { describe, expect, it } from "@jest/globals";
import { faultsOf, head } from "./registry.ts";

/** Description, what follows the two obligatory lines, every fault in order. */
const cases: readonly [string, string, readonly (string | RegExp)[]][] = [
  [
    "an unknown section",
    "scheduling: {}",
    [
      "scheduling: unknown key; expected one of apiVersion, kind, metadata, featureGates, plugins, schedulingProfiles, dataLayer, flowControl, requestHandler, saturationDetector, parser",
    ],
  ],
  ["a misspelt section", "plugin: []", [/^plugin: unknown key \(did you mean plugins\?\); expected one of /]],
  ["a list that is an object", "plugins: {}", ["plugins: {} should be of type array"]],
  ["a plugin without a type", "plugins: [{name: x}]", ["plugins[0].type: missing"]],
  [
    "an unknown key of a plugin",
    "plugins: [{type: queue-scorer, params: {}}]",
    ["plugins[0].params: unknown key; expected one of name, type, parameters, module"],
  ],
  [
    "an unknown plugin type",
    "plugins: [{type: queue-score}]",
    [
      'plugins[0].type: unknown plugin type "queue-score" (did you mean queue-scorer?); a plugin of your own needs `module`',
    ],
  ],
  [
    "a type of the reference that is not built",
    "plugins: [{type: latency-scorer}]",
    [
      "plugins[0].type: latency-scorer is a plugin of the reference picker that is not built yet (waits for the latency predictor)",
    ],
  ],
  [
    "a duplicate plugin name",
    "plugins: [{type: queue-scorer}, {type: random-picker, name: queue-scorer}]",
    ['plugins[1]: a plugin named "queue-scorer" exists already; give one of them a `name` of its own'],
  ],
  [
    "the same type twice without a name",
    "plugins: [{type: queue-scorer}, {type: queue-scorer}]",
    ['plugins[1]: a plugin named "queue-scorer" exists already; give one of them a `name` of its own'],
  ],
  [
    "an unknown parameter",
    "plugins: [{type: load-aware-scorer, parameters: {treshold: 3}}]",
    ["plugins[0].parameters.treshold: unknown key (did you mean threshold?); expected one of threshold"],
  ],
  [
    "parameters of a plugin that has none",
    "plugins: [{type: queue-scorer, parameters: {a: 1}}]",
    ["plugins[0].parameters.a: unknown key; expected no keys here"],
  ],
  [
    "a parameter of the wrong type, another out of range, a third missing, in two plugins",
    `plugins:
  - {type: prefix-cache-scorer, parameters: {matchLengthWeight: 2, matchLengthScaleTokens: many}}
  - {type: utilization-filter}`,
    [
      "plugins[0].parameters.matchLengthWeight: 2 must be <= 1",
      'plugins[0].parameters.matchLengthScaleTokens: "many" should be of type integer',
      "plugins[1].parameters.conditions: missing",
    ],
  ],
  [
    "a fault that a schema cannot express",
    "plugins: [{type: session-id-producer}]",
    ["plugins[0].parameters: exactly one of headerName and cookieName is needed"],
  ],
  [
    "a reference to no plugin",
    "schedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scorer}, {pluginRef: nobody}]}]",
    [
      'schedulingProfiles[0].plugins[0].pluginRef: no plugin named "queue-scorer"; add {type: queue-scorer} to plugins',
      'schedulingProfiles[0].plugins[1].pluginRef: no plugin named "nobody"',
    ],
  ],
  [
    "a reference close to a plugin's name",
    "plugins: [{type: queue-scorer, name: waiting}]\nschedulingProfiles: [{name: a, plugins: [{pluginRef: wating}]}]",
    ['schedulingProfiles[0].plugins[0].pluginRef: no plugin named "wating" (did you mean waiting?)'],
  ],
  [
    "a plugin in a profile that plays no part in one",
    "plugins: [{type: metrics-data-source}]\nschedulingProfiles: [{name: a, plugins: [{pluginRef: metrics-data-source}]}]",
    [
      "schedulingProfiles[0].plugins[0].pluginRef: metrics-data-source is a data-source, not a filter, scorer or picker",
    ],
  ],
  [
    "a broken plugin, once, however often it is referred to",
    "plugins: [{type: latency-scorer}]\nschedulingProfiles: [{name: a, plugins: [{pluginRef: latency-scorer}]}]",
    [/^plugins\[0\]\.type: latency-scorer is a plugin of the reference picker/],
  ],
  [
    "two pickers in a profile",
    `plugins: [{type: random-picker}, {type: max-score-picker}]
schedulingProfiles: [{name: a, plugins: [{pluginRef: random-picker}, {pluginRef: max-score-picker}]}]`,
    ["schedulingProfiles[0].plugins: a profile has one picker; found random-picker, max-score-picker"],
  ],
  [
    "two profiles of one name, and no handler that chooses",
    "schedulingProfiles: [{name: a}, {name: a}]",
    [
      'schedulingProfiles[1].name: a profile named "a" exists already',
      "schedulingProfiles: 2 profiles need a profile handler that chooses between them (header-profile-handler); single-profile-handler runs one",
    ],
  ],
  [
    "two profile handlers",
    "plugins: [{type: single-profile-handler}, {type: header-profile-handler}]",
    ["plugins: exactly one profile handler may exist; found single-profile-handler, header-profile-handler"],
  ],
  [
    "an empty profile name",
    'schedulingProfiles: [{name: ""}]',
    [/^schedulingProfiles\[0\]\.name: "" must NOT have fewer than 1 characters/],
  ],
  [
    "a weight that is no number",
    "plugins: [{type: queue-scorer}]\nschedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scorer, weight: high}]}]",
    ['schedulingProfiles[0].plugins[0].weight: "high" should be of type number'],
  ],
  [
    "the gate that is not built, an unknown one, a misspelt one, a wrong value and a repeated one",
    "featureGates: [flowControl=true, nonsense, flowcontrol, flowControl=yes, haPopulateNonLeaderDatastore, haPopulateNonLeaderDatastore=false]",
    [
      "featureGates[0]: flowControl cannot be switched on: queueing is not built yet: requests are admitted or shed at once",
      'featureGates[1]: unknown gate "nonsense"; expected one of flowControl, haPopulateNonLeaderDatastore',
      'featureGates[2]: unknown gate "flowcontrol" (did you mean flowControl?); expected one of flowControl, haPopulateNonLeaderDatastore',
      'featureGates[3]: "flowControl=yes" should be "flowControl", "flowControl=true" or "flowControl=false"',
      "featureGates[5]: haPopulateNonLeaderDatastore is set already",
    ],
  ],
  [
    "flow control by its schema, with the gate off",
    `flowControl:
  maxBytes: lots
  maxRequests: -1
  defaultRequestTTL: 30
  noEndpointRequestTTL: half an hour
  enableEviction: 1
  priorityBands: [{maxRequests: 5}, {priority: high}]
  queues: 3`,
    [
      /^flowControl\.queues: unknown key; expected one of maxBytes, /,
      'flowControl.maxBytes: "lots" is none of the forms allowed here',
      "flowControl.maxRequests: -1 is none of the forms allowed here",
      "flowControl.defaultRequestTTL: 30 should be of type string",
      'flowControl.noEndpointRequestTTL: "half an hour" is no duration; expected e.g. "200ms", "30s", "1m30s"',
      "flowControl.priorityBands[0].priority: missing",
      'flowControl.priorityBands[1].priority: "high" should be of type integer',
      "flowControl.enableEviction: 1 should be of type boolean",
    ],
  ],
  [
    "flow control beyond its schema, with the gate off",
    `plugins: [{type: queue-scorer}]
flowControl:
  saturationDetector: {pluginRef: queue-scorer}
  usageLimitPolicyPluginRef: fcfs-ordering-policy
  defaultPriorityBand: {orderingPolicyRef: fcfs-ordering-polcy}
  priorityBands:
    - {priority: 1, fairnessPolicyRef: random}
    - {priority: 1}`,
    [
      "flowControl.saturationDetector.pluginRef: queue-scorer is a scorer, not a saturation-detector",
      'flowControl.defaultPriorityBand.orderingPolicyRef: "fcfs-ordering-polcy" is no ordering policy (did you mean fcfs-ordering-policy?); expected one of fcfs-ordering-policy, edf-ordering-policy, slo-deadline-ordering-policy',
      'flowControl.priorityBands[0].fairnessPolicyRef: "random" is no fairness policy; expected one of global-strict-fairness-policy, round-robin-fairness-policy, program-aware-fairness',
      "flowControl.priorityBands[1].priority: 1 has a band already",
      'flowControl.usageLimitPolicyPluginRef: "fcfs-ordering-policy" is no usage limit policy; expected one of static-usage-limit-policy, priority-holdback-policy, soft-reflective-ceiling-policy',
    ],
  ],
  [
    "a source that is none, an extractor that is none, a source twice",
    `plugins: [{type: models-data-source}, {type: models-data-extractor}]
dataLayer:
  sources:
    - {pluginRef: models-data-extractor}
    - {pluginRef: models-data-source, extractors: [{pluginRef: models-data-source}, {pluginRef: core-metrics-extractor}]}
    - {pluginRef: models-data-source}`,
    [
      "dataLayer.sources[0].pluginRef: models-data-extractor is an extractor, not a data-source",
      "dataLayer.sources[1].extractors[0].pluginRef: models-data-source is a data-source, not an extractor",
      'dataLayer.sources[1].extractors[1].pluginRef: no plugin named "core-metrics-extractor"; add {type: core-metrics-extractor} to plugins',
      "dataLayer.sources[2].pluginRef: models-data-source is listed already",
    ],
  ],
  [
    "a discovery that is none, and what pickers would share",
    `plugins: [{type: queue-scorer}]
dataLayer: {discovery: {pluginRef: queue-scorer}, peerDiscovery: {pluginRef: x}, crossReplicaSyncerPluginRef: y, crossReplicaSyncInterval: 1s}`,
    [
      "dataLayer.peerDiscovery: state shared between pickers is not built yet",
      "dataLayer.crossReplicaSyncerPluginRef: state shared between pickers is not built yet",
      "dataLayer.crossReplicaSyncInterval: state shared between pickers is not built yet",
      "dataLayer.discovery.pluginRef: queue-scorer is a scorer, not a discovery",
    ],
  ],
  [
    "parsers that are none",
    "plugins: [{type: queue-scorer}]\nrequestHandler: {parsers: [{pluginRef: queue-scorer}, {pluginRef: opnai-parser}, {pluginRef: vertexai-parser}]}",
    [
      "requestHandler.parsers[0].pluginRef: queue-scorer is a scorer, not a parser",
      'requestHandler.parsers[1].pluginRef: no plugin named "opnai-parser" (did you mean openai-parser?)',
      `requestHandler.parsers[2].pluginRef: no plugin named "vertexai-parser", and the reference picker's vertexai-parser is not built yet (waits for the Vertex AI dialects)`,
    ],
  ],
  [
    "several producers and a scorer that names none of them",
    `plugins:
  - {type: approx-prefix-cache-producer, name: small}
  - {type: approx-prefix-cache-producer, name: large}
  - {type: prefix-cache-scorer}
  - {type: inflight-load-producer, parameters: {prefixMatchInfoProducerName: small}}`,
    [
      "plugins[2].parameters.prefixMatchInfoProducerName: name the approx-prefix-cache-producer to read from: small, large",
    ],
  ],
  [
    "a scorer that names a producer by its type where it has another name",
    `plugins:
  - {type: approx-prefix-cache-producer, name: prefix-state}
  - {type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: approx-prefix-cache-producer}}`,
    [
      'plugins[1].parameters.prefixMatchInfoProducerName: no plugin named "approx-prefix-cache-producer"; the approx-prefix-cache-producer here is prefix-state',
    ],
  ],
  [
    "a scorer that reads from a plugin that produces nothing",
    "plugins: [{type: queue-scorer}, {type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: queue-scorer}}]",
    ["plugins[1].parameters.prefixMatchInfoProducerName: queue-scorer is a scorer, not a data-producer"],
  ],
  [
    "a session attribute that nothing publishes, by a producer that is not there",
    `plugins:
  - type: session-affinity-filter
    parameters: {strategy: session_id, sessionIdConfig: {sources: [{attribute: session-id, producer: sessions}]}}`,
    [
      'plugins[0].parameters.sessionIdConfig.sources[0].producer: no plugin named "sessions"',
      'plugins[0].parameters.sessionIdConfig.sources[0].attribute: nothing publishes "session-id"; add a session-id-producer to plugins',
    ],
  ],
  [
    "a default that is needed under a name someone else has",
    "plugins: [{type: random-picker, name: single-profile-handler}]",
    [
      'plugins[0].name: "single-profile-handler" names a random-picker, but schedulingProfiles needs a single-profile-handler by that name; rename it',
    ],
  ],
  [
    "a module that is not there",
    "plugins: [{type: mine, module: ./nowhere.ts}]",
    ["plugins[0].module: no such file: /nowhere.ts"],
  ],
  [
    "a module under a built-in type",
    "plugins: [{type: queue-scorer, module: ./x.ts}, {type: latency-scorer, module: ./x.ts}]",
    [
      "plugins[0].type: queue-scorer is a built-in type; a plugin of your own needs a type of its own",
      "plugins[1].type: latency-scorer is a built-in type; a plugin of your own needs a type of its own",
    ],
  ],
];

describe("a configuration is refused for", () => {
  it.each(cases)("%s", async (_what, text, expected) => {
    const faults = await faultsOf(head + text);
    expect(faults).toEqual(expected.map((fault) => (typeof fault === "string" ? fault : expect.stringMatching(fault))));
  });

  it.each([
    [
      "a wrong apiVersion",
      "apiVersion: v1",
      ['apiVersion: "v1" is not one of "llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1"'],
    ],
    [
      "another kind",
      "apiVersion: llm-d.ai/v1alpha1\nkind: Deployment",
      ['kind: "Deployment" should be "EndpointPickerConfig"'],
    ],
    ["a list", "- a", ['the document: ["a"] should be of type object']],
    ["a word", "hello", ['the document: "hello" should be of type object']],
  ])("%s", async (_what, text, expected) => {
    expect(await faultsOf(text)).toEqual(expected);
  });

  it("names every fault of all sections at once", async () => {
    const faults = await faultsOf(`${head}
featureGates: [flowControl]
plugins: [{type: nope}, {type: load-aware-scorer, parameters: {threshold: x}}]
schedulingProfiles: [{name: a, plugins: [{pluginRef: ghost}]}]
requestHandler: {parsers: [{pluginRef: ghost}]}
dataLayer: {sources: [{pluginRef: ghost}], discovery: {pluginRef: ghost}}
saturationDetector: {pluginRef: ghost}`);
    expect(faults.map((fault) => fault.slice(0, fault.indexOf(":")))).toEqual([
      "featureGates[0]",
      "plugins[0].type",
      "plugins[1].parameters.threshold",
      "dataLayer.sources[0].pluginRef",
      "requestHandler.parsers[0].pluginRef",
      "saturationDetector.pluginRef",
      "schedulingProfiles[0].plugins[0].pluginRef",
      "dataLayer.discovery.pluginRef",
    ]);
  });
});
