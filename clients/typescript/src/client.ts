import { randomUUID } from "node:crypto";

import { create, type DescMessage, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import {
  type CallCredentials,
  type CallOptions as ChannelCallOptions,
  type ChannelCredentials,
  type ClientOptions as ChannelOptions,
  Client as Channel,
  credentials,
  Metadata,
} from "@grpc/grpc-js";

import { errorOf } from "./error.js";
import { serviceConfig } from "./gen/service_config.js";
import type { TeamToken } from "./gen/teamtoken/v1/team_token_pb.js";
import {
  CreateNamedTokenRequestSchema,
  CreateNamedTokenResponseSchema,
  DeleteTokenByIDRequestSchema,
  DeleteTokenByIDResponseSchema,
  DeleteTokenRequestSchema,
  DeleteTokenResponseSchema,
  GenerateTokenRequestSchema,
  GenerateTokenResponseSchema,
  GetTokenByIDRequestSchema,
  GetTokenByIDResponseSchema,
  GetTokenRequestSchema,
  GetTokenResponseSchema,
  ListTokensRequestSchema,
  ListTokensResponseSchema,
} from "./gen/teamtoken/v1/team_token_service_pb.js";
import { Secret } from "./secret.js";

const service = "teamtoken.v1.TeamTokenService";

/** What a call can be told. */
export interface CallOptions {
  /** Milliseconds that the call may take. */
  timeout?: number;
}

/** What a call that makes a token can be told. */
export interface IssueOptions extends CallOptions {
  /** When the token shall stop working. */
  expiredAt?: Date;
  /** The same call under the same one is carried out once. Without, there is a fresh one, for gRPC's own retries. */
  requestId?: string;
}

/** A token that was made. */
export interface NewToken {
  readonly token: TeamToken;
  readonly secret: Secret;
  /** The same call under it is given the same answer, for ten minutes. */
  readonly requestId: string;
}

/** Where the service is, and who calls. */
export interface ClientOptions {
  /** Connect in the clear: to a mesh's proxy, or to try things out. */
  insecure?: boolean;
  /** CAs to trust for the service instead of Node's own, in PEM. */
  ca?: Buffer;
  /** Who calls, in PEM: mutual TLS. */
  certificate?: Buffer;
  key?: Buffer;
  /** What says who calls as a bearer token, a JWT for example, or a function that is asked for it for each call. */
  bearer?: string | (() => string | Promise<string>);
  /** Milliseconds that a call may take that says nothing else: a minute. */
  timeout?: number;
  /** More options of the channel, gRPC's own. */
  channel?: ChannelOptions;
}

interface Method<I extends DescMessage, O extends DescMessage> {
  readonly name: string;
  readonly input: I;
  readonly output: O;
  /** Whether it changes something. */
  readonly changes: boolean;
}

const methods = {
  generate: { name: "GenerateToken", input: GenerateTokenRequestSchema, output: GenerateTokenResponseSchema, changes: true },
  create: { name: "CreateNamedToken", input: CreateNamedTokenRequestSchema, output: CreateNamedTokenResponseSchema, changes: true },
  get: { name: "GetToken", input: GetTokenRequestSchema, output: GetTokenResponseSchema, changes: false },
  getById: { name: "GetTokenByID", input: GetTokenByIDRequestSchema, output: GetTokenByIDResponseSchema, changes: false },
  delete: { name: "DeleteToken", input: DeleteTokenRequestSchema, output: DeleteTokenResponseSchema, changes: true },
  deleteById: { name: "DeleteTokenByID", input: DeleteTokenByIDRequestSchema, output: DeleteTokenByIDResponseSchema, changes: true },
  list: { name: "ListTokens", input: ListTokensRequestSchema, output: ListTokensResponseSchema, changes: false },
} as const;

/** Calls the service. */
export class Client {
  readonly #channel: Channel;
  readonly #timeout: number;

  /** @param address HOST:PORT, or another target that gRPC knows. */
  constructor(address: string, options: ClientOptions = {}) {
    this.#timeout = options.timeout ?? 60_000;
    this.#channel = new Channel(address, channelCredentials(options), { "grpc.service_config": JSON.stringify(serviceConfig), ...options.channel });
  }

  /** End the connection. */
  close(): void {
    this.#channel.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #call<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
    request: MessageShape<I>,
    timeout: number | undefined,
  ): Promise<MessageShape<O>> {
    const deadline: ChannelCallOptions = { deadline: Date.now() + (timeout ?? this.#timeout) };
    return new Promise((resolve, reject) => {
      this.#channel.makeUnaryRequest(
        `/${service}/${method.name}`,
        (message: MessageShape<I>) => Buffer.from(toBinary(method.input, message)),
        (bytes: Buffer) => fromBinary(method.output, bytes),
        request,
        new Metadata(),
        deadline,
        (error, response) => {
          if (error !== null) {
            reject(errorOf(error, method.changes));
          } else {
            resolve(response as MessageShape<O>);
          }
        },
      );
    });
  }

  /** Make the team's token, which revokes the one before. */
  async generateToken(teamId: string, options: IssueOptions & { expectedTokenId?: string } = {}): Promise<NewToken> {
    const requestId = options.requestId ?? randomUUID();
    const request = create(GenerateTokenRequestSchema, { teamId, requestId, expectedTokenId: options.expectedTokenId ?? "", ...expiry(options) });
    const response = await this.#call(methods.generate, request, options.timeout);
    return { token: present(response.teamToken), secret: new Secret(response.secret), requestId };
  }

  /** Make one more token of the team, with a description that no other of its tokens has. */
  async createNamedToken(teamId: string, description: string, options: IssueOptions = {}): Promise<NewToken> {
    const requestId = options.requestId ?? randomUUID();
    const request = create(CreateNamedTokenRequestSchema, { teamId, description, requestId, ...expiry(options) });
    const response = await this.#call(methods.create, request, options.timeout);
    return { token: present(response.teamToken), secret: new Secret(response.secret), requestId };
  }

  /** Describe the team's token. */
  async getToken(teamId: string, options: CallOptions = {}): Promise<TeamToken> {
    return present((await this.#call(methods.get, create(GetTokenRequestSchema, { teamId }), options.timeout)).teamToken);
  }

  /** Describe a token of a team. */
  async getTokenById(tokenId: string, options: CallOptions = {}): Promise<TeamToken> {
    return present((await this.#call(methods.getById, create(GetTokenByIDRequestSchema, { tokenId }), options.timeout)).teamToken);
  }

  /** Revoke the team's token. */
  async deleteToken(teamId: string, options: CallOptions & { expectedTokenId?: string; allowMissing?: boolean } = {}): Promise<void> {
    const { expectedTokenId = "", allowMissing = false } = options;
    await this.#call(methods.delete, create(DeleteTokenRequestSchema, { teamId, expectedTokenId, allowMissing }), options.timeout);
  }

  /** Revoke a token of a team. */
  async deleteTokenById(tokenId: string, options: CallOptions = {}): Promise<void> {
    await this.#call(methods.deleteById, create(DeleteTokenByIDRequestSchema, { tokenId }), options.timeout);
  }

  /** Describe the tokens of an organization's teams, page after page. The time-out is that of one page. */
  async *listTokens(
    organization: string,
    options: CallOptions & { query?: string; sort?: string; expiryStatus?: string[]; pageSize?: number } = {},
  ): AsyncGenerator<TeamToken, void, undefined> {
    const { query = "", sort = "", expiryStatus = [], pageSize = 100 } = options;
    const request = create(ListTokensRequestSchema, { organization, query, sort, expiryStatus, pageSize });
    do {
      const page = await this.#call(methods.list, request, options.timeout);
      yield* page.teamTokens;
      request.pageToken = page.nextPageToken;
    } while (request.pageToken !== "");
  }
}

function expiry(options: IssueOptions) {
  return options.expiredAt === undefined ? {} : { expiredAt: timestampFromDate(options.expiredAt) };
}

function present(token: TeamToken | undefined): TeamToken {
  if (token === undefined) {
    throw new TypeError("the service answered without a token");
  }
  return token;
}

function channelCredentials({ insecure, ca, certificate, key, bearer }: ClientOptions): ChannelCredentials {
  if (insecure === true) {
    if (ca ?? certificate ?? key ?? bearer) {
      throw new TypeError("insecure excludes certificates, and a bearer token, which would be sent in the clear");
    }
    return credentials.createInsecure();
  }
  if ((certificate === undefined) !== (key === undefined)) {
    throw new TypeError("certificate and key go together");
  }
  const secured = credentials.createSsl(ca ?? null, key ?? null, certificate ?? null);
  return bearer === undefined ? secured : credentials.combineChannelCredentials(secured, bearerCredentials(bearer));
}

function bearerCredentials(bearer: string | (() => string | Promise<string>)): CallCredentials {
  return credentials.createFromMetadataGenerator((_, callback) => {
    Promise.resolve(typeof bearer === "string" ? bearer : bearer()).then(
      (token) => {
        const metadata = new Metadata();
        metadata.set("authorization", `Bearer ${token}`);
        callback(null, metadata);
      },
      (error: unknown) => {
        callback(error instanceof Error ? error : new Error("the bearer token can't be had"));
      },
    );
  });
}
