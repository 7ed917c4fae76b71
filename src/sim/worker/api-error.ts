/** A refusal in vLLM's JSON form. Expected outcomes: returned, not thrown. */

export interface ApiError {
  readonly status: number;
  readonly message: string;
  readonly type: string;
  readonly param: string | null;
}

export function badRequest(message: string, param: string | null = null): ApiError {
  return { status: 400, message, type: "BadRequestError", param };
}

export function modelNotFound(model: string): ApiError {
  return { status: 404, message: `The model \`${model}\` does not exist.`, type: "NotFoundError", param: "model" };
}

export function encodeApiError(error: ApiError): string {
  const { message, type, param, status } = error;
  return JSON.stringify({ error: { message, type, param, code: status } });
}
