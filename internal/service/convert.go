package service

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

var creatorKinds = map[string]teamtokenv1.Creator_Kind{
	"users":         teamtokenv1.Creator_KIND_USER,
	"teams":         teamtokenv1.Creator_KIND_TEAM,
	"organizations": teamtokenv1.Creator_KIND_ORGANIZATION,
}

func toProto(t upstream.Token) *teamtokenv1.TeamToken {
	p := &teamtokenv1.TeamToken{
		Id:          t.ID,
		TeamId:      t.TeamID,
		Description: t.Description,
		CreatedAt:   toTimestamp(t.CreatedAt),
		LastUsedAt:  toTimestamp(t.LastUsedAt),
		ExpiredAt:   toTimestamp(t.ExpiredAt),
	}
	if t.CreatedBy.ID != "" {
		p.CreatedBy = &teamtokenv1.Creator{Id: t.CreatedBy.ID, Kind: creatorKinds[t.CreatedBy.Type]}
	}
	return p
}

// fromProto is the token that toProto made p of.
func fromProto(p *teamtokenv1.TeamToken) upstream.Token {
	t := upstream.Token{
		ID:          p.GetId(),
		TeamID:      p.GetTeamId(),
		Description: p.Description,
		CreatedAt:   fromTimestamp(p.GetCreatedAt()),
		LastUsedAt:  fromTimestamp(p.GetLastUsedAt()),
		ExpiredAt:   fromTimestamp(p.GetExpiredAt()),
	}
	for name, kind := range creatorKinds {
		if by := p.GetCreatedBy(); by != nil && by.GetKind() == kind {
			t.CreatedBy = upstream.Creator{ID: by.GetId(), Type: name}
		}
	}
	return t
}

func fromTimestamp(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func toTimestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
