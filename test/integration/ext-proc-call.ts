/** One request as a gateway sends it, over gRPC, without a gateway: for tests of what the picker decides. */
import { credentials } from "@grpc/grpc-js";
import {
  ExternalProcessorClient,
  ProcessingRequest,
  type ProcessingResponse,
} from "../../src/gen/external_processor.ts";

export interface Answered {
  /** "" when the request was refused. */
  readonly destination: string;
  /** HTTP status of a refusal. */
  readonly refused: number | undefined;
}

const destinationHeader = "x-gateway-destination-endpoint";

/** Sends a chat request in full-duplex mode and ends the stream after the decision, as a client that leaves does. */
export async function decide(grpcPort: number, requestId: string, content = "hello"): Promise<Answered> {
  const client = new ExternalProcessorClient(`127.0.0.1:${grpcPort}`, credentials.createInsecure());
  try {
    return await new Promise<Answered>((resolve, reject) => {
      const stream = client.process();
      stream.on("error", reject);
      stream.on("data", (reply: ProcessingResponse) => {
        const answered = read(reply);
        if (answered === undefined) return;
        resolve(answered);
        stream.end();
      });
      const headers = { ":method": "POST", ":path": "/v1/chat/completions", "x-request-id": requestId };
      stream.write(
        ProcessingRequest.fromPartial({
          protocolConfig: { requestBodyMode: 4, responseBodyMode: 4 },
          request: {
            $case: "requestHeaders",
            value: {
              headers: {
                headers: Object.entries(headers).map(([key, value]) => ({
                  key,
                  value: "",
                  rawValue: Buffer.from(value),
                })),
              },
              endOfStream: false,
            },
          },
        }),
      );
      const body = Buffer.from(JSON.stringify({ model: "m", messages: [{ role: "user", content }] }));
      stream.write(
        ProcessingRequest.fromPartial({ request: { $case: "requestBody", value: { body, endOfStream: true } } }),
      );
    });
  } finally {
    client.close();
  }
}

function read({ response }: ProcessingResponse): Answered | undefined {
  if (response?.$case === "immediateResponse") {
    return { destination: "", refused: response.value.status?.code ?? 0 };
  }
  if (response?.$case !== "requestHeaders") return undefined;
  const set = response.value.response?.headerMutation?.setHeaders ?? [];
  const header = set.find((option) => option.header?.key === destinationHeader)?.header;
  return { destination: header === undefined ? "" : header.rawValue.toString() || header.value, refused: undefined };
}
