import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";

/** What the details of a status say, of those that the service gives: messages of google.rpc, read as far as they are needed. */
export type Detail =
  | { type: "google.rpc.ErrorInfo"; reason: string; metadata: Record<string, string> }
  | { type: "google.rpc.RetryInfo"; milliseconds: number }
  | { type: "google.rpc.RequestInfo"; requestId: string }
  | { type: "google.rpc.BadRequest"; violations: { field: string; description: string }[] };

/** The details of a google.rpc.Status, in binary. */
export function statusDetails(bytes: Uint8Array): Detail[] {
  return read(bytes)
    .messages(3)
    .map((any) => detail(any.text(1), read(any.bytes(2))))
    .filter((known) => known !== undefined);
}

function detail(url: string, m: Message): Detail | undefined {
  switch (url.slice(url.lastIndexOf("/") + 1)) {
    case "google.rpc.ErrorInfo":
      return {
        type: "google.rpc.ErrorInfo",
        reason: m.text(1),
        metadata: Object.fromEntries(m.messages(3).map((entry) => [entry.text(1), entry.text(2)])),
      };
    case "google.rpc.RetryInfo": {
      const delay = read(m.bytes(1));
      return { type: "google.rpc.RetryInfo", milliseconds: delay.number(1) * 1000 + delay.number(2) / 1e6 };
    }
    case "google.rpc.RequestInfo":
      return { type: "google.rpc.RequestInfo", requestId: m.text(1) };
    case "google.rpc.BadRequest":
      return { type: "google.rpc.BadRequest", violations: m.messages(1).map((v) => ({ field: v.text(1), description: v.text(2) })) };
    default:
      return undefined;
  }
}

/** The fields of a message, by their numbers. */
class Message {
  readonly #fields = new Map<number, (Uint8Array | number)[]>();

  add(field: number, value: Uint8Array | number): void {
    this.#fields.set(field, [...(this.#fields.get(field) ?? []), value]);
  }

  bytes(field: number): Uint8Array {
    const last = this.#fields.get(field)?.at(-1);
    return last instanceof Uint8Array ? last : new Uint8Array();
  }

  text(field: number): string {
    return new TextDecoder().decode(this.bytes(field));
  }

  number(field: number): number {
    const last = this.#fields.get(field)?.at(-1);
    return typeof last === "number" ? last : 0;
  }

  messages(field: number): Message[] {
    return (this.#fields.get(field) ?? []).filter((value) => value instanceof Uint8Array).map(read);
  }
}

function read(bytes: Uint8Array): Message {
  const reader = new BinaryReader(bytes);
  const message = new Message();
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    switch (type) {
      case WireType.LengthDelimited:
        message.add(field, reader.bytes());
        break;
      case WireType.Varint:
        message.add(field, Number(reader.int64()));
        break;
      default:
        reader.skip(type, field);
    }
  }
  return message;
}
