package com.github.teamtoken;

import com.github.teamtoken.v1.CreateNamedTokenRequest;
import com.github.teamtoken.v1.DeleteTokenByIDRequest;
import com.github.teamtoken.v1.DeleteTokenRequest;
import com.github.teamtoken.v1.GenerateTokenRequest;
import com.github.teamtoken.v1.GetTokenByIDRequest;
import com.github.teamtoken.v1.GetTokenRequest;
import com.github.teamtoken.v1.ListTokensRequest;
import com.github.teamtoken.v1.TeamToken;
import com.github.teamtoken.v1.TeamTokenServiceGrpc;
import io.grpc.CallCredentials;
import io.grpc.ChannelCredentials;
import io.grpc.CompositeChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import java.io.IOException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.UUID;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import java.util.function.Supplier;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;

/**
 * Calls the service. It is safe for several threads. Requests and tokens are the contract's own messages; every call
 * throws a {@link TeamTokenException} if it fails.
 */
public final class TeamTokenClient implements AutoCloseable {
  private static final String SERVICE = TeamTokenServiceGrpc.SERVICE_NAME;

  /** gRPC may send these again by itself. DeleteToken has no request id: it would delete a token that was made since. */
  private static final List<String> REPEATED =
      List.of("GenerateToken", "CreateNamedToken", "GetToken", "GetTokenByID", "DeleteTokenByID", "ListTokens");

  private static final Map<String, ?> SERVICE_CONFIG =
      Map.of(
          "methodConfig",
          List.of(
              Map.of(
                  "name",
                  REPEATED.stream().map(method -> Map.of("service", SERVICE, "method", method)).toList(),
                  "retryPolicy",
                  Map.of(
                      "maxAttempts", 5.0,
                      "initialBackoff", "0.1s",
                      "maxBackoff", "2s",
                      "backoffMultiplier", 2.0,
                      "retryableStatusCodes", List.of("UNAVAILABLE")))));

  private final ManagedChannel channel;
  private final Duration timeout;

  private TeamTokenClient(ManagedChannel channel, Duration timeout) {
    this.channel = channel;
    this.timeout = timeout;
  }

  /** A client of the service at HOST:PORT, over TLS unless it is said otherwise. */
  public static Builder builder(String address) {
    return new Builder(address);
  }

  /** Says where the service is, and who calls. */
  public static final class Builder {
    private final String address;
    private final TlsChannelCredentials.Builder tls = TlsChannelCredentials.newBuilder();
    private boolean insecure;
    private boolean secured;
    private Supplier<String> bearer;
    private Duration timeout = Duration.ofMinutes(1);
    private boolean retries = true;

    private Builder(String address) {
      this.address = address;
    }

    /** Connects in the clear: to a mesh's proxy, or to try things out. */
    public Builder insecure() {
      insecure = true;
      return this;
    }

    /** Trusts these CAs for the service instead of Java's own, in PEM. */
    public Builder ca(Path pem) throws IOException {
      tls.trustManager(pem.toFile());
      secured = true;
      return this;
    }

    /** Says who calls, in PEM: mutual TLS. */
    public Builder certificate(Path certificate, Path key) throws IOException {
      tls.keyManager(certificate.toFile(), key.toFile());
      secured = true;
      return this;
    }

    /** Says who calls as a bearer token, a JWT for example, which is asked for at each call. */
    public Builder bearer(Supplier<String> token) {
      bearer = token;
      return this;
    }

    /** How long a call may take: a minute, unless it is set. */
    public Builder timeout(Duration each) {
      timeout = each;
      return this;
    }

    /** Has gRPC send nothing again by itself. */
    public Builder withoutRetries() {
      retries = false;
      return this;
    }

    /** The client, which connects when it is first used. */
    public TeamTokenClient build() {
      if (insecure && (secured || bearer != null)) {
        throw new IllegalArgumentException("insecure excludes certificates, and a bearer token, which would be sent in the clear");
      }
      ChannelCredentials credentials = insecure ? InsecureChannelCredentials.create() : tls.build();
      if (bearer != null) {
        credentials = CompositeChannelCredentials.create(credentials, new Bearer(bearer));
      }
      var made = Grpc.newChannelBuilder(address, credentials);
      if (retries) {
        made.defaultServiceConfig(SERVICE_CONFIG).enableRetry();
      } else {
        made.disableRetry();
      }
      return new TeamTokenClient(made.build(), timeout);
    }
  }

  private static final class Bearer extends CallCredentials {
    private static final Metadata.Key<String> KEY = Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
    private final Supplier<String> token;

    Bearer(Supplier<String> token) {
      this.token = token;
    }

    @Override
    public void applyRequestMetadata(RequestInfo info, Executor executor, MetadataApplier applier) {
      executor.execute(
          () -> {
            try {
              var headers = new Metadata();
              headers.put(KEY, "Bearer " + token.get());
              applier.apply(headers);
            } catch (RuntimeException e) {
              applier.fail(Status.UNAUTHENTICATED.withDescription("the bearer token can't be had").withCause(e));
            }
          });
    }
  }

  /** Ends the connection, and waits a little for the calls under way. */
  @Override
  public void close() {
    channel.shutdown();
    try {
      if (!channel.awaitTermination(5, TimeUnit.SECONDS)) {
        channel.shutdownNow();
      }
    } catch (InterruptedException e) {
      channel.shutdownNow();
      Thread.currentThread().interrupt();
    }
  }

  private <R> R call(boolean changes, Function<TeamTokenServiceGrpc.TeamTokenServiceBlockingStub, R> rpc) {
    try {
      return rpc.apply(TeamTokenServiceGrpc.newBlockingStub(channel).withDeadlineAfter(timeout.toNanos(), TimeUnit.NANOSECONDS));
    } catch (StatusRuntimeException e) {
      throw TeamTokenException.of(e, changes);
    }
  }

  /** Makes the team's token, which revokes the one before. */
  public NewToken generateToken(String teamId) {
    return generateToken(GenerateTokenRequest.newBuilder().setTeamId(teamId).build());
  }

  /** Makes the team's token. A request without a request id gets one, for the retries that gRPC makes by itself. */
  public NewToken generateToken(GenerateTokenRequest request) {
    var once = request.getRequestId().isEmpty() ? request.toBuilder().setRequestId(fresh()).build() : request;
    var response = call(true, stub -> stub.generateToken(once));
    return new NewToken(response.getTeamToken(), new Secret(response.getSecret()), once.getRequestId());
  }

  /** Makes one more token of the team, with a description that no other of its tokens has. */
  public NewToken createNamedToken(String teamId, String description) {
    return createNamedToken(CreateNamedTokenRequest.newBuilder().setTeamId(teamId).setDescription(description).build());
  }

  /** Makes one more token of the team, as {@link #generateToken(GenerateTokenRequest)} does. */
  public NewToken createNamedToken(CreateNamedTokenRequest request) {
    var once = request.getRequestId().isEmpty() ? request.toBuilder().setRequestId(fresh()).build() : request;
    var response = call(true, stub -> stub.createNamedToken(once));
    return new NewToken(response.getTeamToken(), new Secret(response.getSecret()), once.getRequestId());
  }

  private static String fresh() {
    return UUID.randomUUID().toString();
  }

  /** Describes the team's token. */
  public TeamToken getToken(String teamId) {
    return call(false, stub -> stub.getToken(GetTokenRequest.newBuilder().setTeamId(teamId).build())).getTeamToken();
  }

  /** Describes a token of a team. */
  public TeamToken getTokenById(String tokenId) {
    return call(false, stub -> stub.getTokenByID(GetTokenByIDRequest.newBuilder().setTokenId(tokenId).build())).getTeamToken();
  }

  /** Revokes the team's token. */
  public void deleteToken(String teamId) {
    deleteToken(DeleteTokenRequest.newBuilder().setTeamId(teamId).build());
  }

  /** Revokes the team's token. */
  public void deleteToken(DeleteTokenRequest request) {
    call(true, stub -> stub.deleteToken(request));
  }

  /** Revokes a token of a team. */
  public void deleteTokenById(String tokenId) {
    call(true, stub -> stub.deleteTokenByID(DeleteTokenByIDRequest.newBuilder().setTokenId(tokenId).build()));
  }

  /** Describes the tokens of an organization's teams. A page is asked for when it is needed. */
  public Stream<TeamToken> listTokens(ListTokensRequest request) {
    Iterable<TeamToken> all = () -> new Pages(request);
    return StreamSupport.stream(all.spliterator(), false);
  }

  private final class Pages implements Iterator<TeamToken> {
    private ListTokensRequest next;
    private Iterator<TeamToken> page = List.<TeamToken>of().iterator();

    Pages(ListTokensRequest first) {
      next = first;
    }

    @Override
    public boolean hasNext() {
      while (!page.hasNext() && next != null) {
        var asked = next;
        var response = call(false, stub -> stub.listTokens(asked));
        page = response.getTeamTokensList().iterator();
        next = response.getNextPageToken().isEmpty() ? null : asked.toBuilder().setPageToken(response.getNextPageToken()).build();
      }
      return page.hasNext();
    }

    @Override
    public TeamToken next() {
      if (!hasNext()) {
        throw new NoSuchElementException();
      }
      return page.next();
    }
  }
}
