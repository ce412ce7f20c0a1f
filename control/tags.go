package control

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// maxResourcePage is the largest page of resources.
const maxResourcePage = 1000

// reservedTagPrefix begins the keys that the cloud around keeps to itself.
const reservedTagPrefix = "_sys_"

// ResourceFilter selects objects by tags and name. Zero members match all.
type ResourceFilter struct {
	WithoutAnyTag bool // then Tags does not count
	Tags          []TagFilter
	Names         []string // each a part of the name, in any case; an empty one matches empty names
}

// TagFilter matches objects that have a tag with one of the values, or with
// any when there are none.
type TagFilter struct {
	Key    string
	Values []string
}

// TagChange is a tag to put on an object or take off. Nil is no value: an empty
// one when it is put on, any when it is taken off.
type TagChange struct {
	Key   string
	Value *string
}

// ProjectTag is a key with all values that objects have for it.
type ProjectTag struct {
	Key    string
	Values []string
}

// ListResources performs ListResourcesByTags: the common part of objects that
// match, newest first. Total counts what matches; limit nil means the most.
func (s *Service) ListResources(ctx context.Context, project string, kind Kind, f ResourceFilter, limit *int, offset int) (List[Meta], error) {
	size := maxResourcePage
	if limit != nil {
		size = *limit
	}
	if size < 1 || size > maxResourcePage {
		return List[Meta]{}, Invalid("limit", "must be from 1 to %d", maxResourcePage)
	}
	if offset < 0 {
		return List[Meta]{}, Invalid("offset", "must not be negative")
	}
	all, err := s.resources(ctx, project, kind)
	if err != nil {
		return List[Meta]{}, err
	}
	found := slices.DeleteFunc(all, func(m Meta) bool { return !f.matches(&m) })
	l := List[Meta]{Total: len(found)}
	found = found[min(offset, len(found)):]
	l.Items = found[:min(size, len(found))]
	return l, nil
}

func (f *ResourceFilter) matches(m *Meta) bool {
	for _, name := range f.Names {
		if name == "" && m.Name != "" || !strings.Contains(strings.ToLower(m.Name), strings.ToLower(name)) {
			return false
		}
	}
	if f.WithoutAnyTag {
		return len(m.Tags) == 0
	}
	for _, want := range f.Tags {
		if !slices.ContainsFunc(m.Tags, func(t Tag) bool { return t.Key == want.Key && matches(want.Values, t.Value) }) {
			return false
		}
	}
	return true
}

// ProjectTags performs ListProjectTags: by key, with the values in order.
func (s *Service) ProjectTags(ctx context.Context, project string, kind Kind) ([]ProjectTag, error) {
	all, err := s.resources(ctx, project, kind)
	if err != nil {
		return nil, err
	}
	values := map[string]map[string]bool{}
	for _, m := range all {
		for _, t := range m.Tags {
			if values[t.Key] == nil {
				values[t.Key] = map[string]bool{}
			}
			values[t.Key][t.Value] = true
		}
	}
	var tags []ProjectTag
	for _, key := range slices.Sorted(maps.Keys(values)) {
		tags = append(tags, ProjectTag{Key: key, Values: slices.Sorted(maps.Keys(values[key]))})
	}
	return tags, nil
}

// ResourceTags performs ShowResourceTags.
func (s *Service) ResourceTags(ctx context.Context, project string, kind Kind, id string) ([]Tag, error) {
	var tags []Tag
	err := s.read(ctx).withMeta(project, kind, id, func(m *Meta) (bool, error) {
		tags = m.Tags
		return false, nil
	})
	return tags, err
}

// AddTags performs BatchCreateResourceTags. Tags have no effect on the engines,
// so the object is not worked on.
func (s *Service) AddTags(ctx context.Context, project string, kind Kind, id string, add []TagChange) error {
	p := &parser{}
	p.tagChanges("tags", add)
	if err := p.result(); err != nil {
		return err
	}
	return s.changeTags(ctx, project, kind, id, func(tags []Tag) ([]Tag, error) {
		for _, t := range add {
			tag := Tag{Key: t.Key}
			if t.Value != nil {
				tag.Value = *t.Value
			}
			if i := slices.IndexFunc(tags, func(old Tag) bool { return old.Key == t.Key }); i >= 0 {
				tags[i] = tag
			} else {
				tags = append(tags, tag)
			}
		}
		if len(tags) > maxTags {
			return nil, Invalid("tags", "an object has at most %d, this one would have %d", maxTags, len(tags))
		}
		return tags, nil
	})
}

// tagChanges checks tags that are to be put on an object.
func (p *parser) tagChanges(field string, add []TagChange) {
	seen := map[string]bool{}
	for i, t := range add {
		field := fmt.Sprintf("%s[%d]", field, i)
		p.tagText(field+".key", t.Key, 1, 128)
		if strings.HasPrefix(t.Key, reservedTagPrefix) || strings.TrimSpace(t.Key) != t.Key {
			p.fail(field+".key", "must not begin with %s, nor begin or end with a space", reservedTagPrefix)
		}
		if t.Value != nil {
			p.tagValue(field+".value", *t.Value)
		}
		if seen[t.Key] {
			p.fail(field+".key", "must be unique")
		}
		seen[t.Key] = true
	}
}

// RemoveTags performs BatchDeleteResourceTags. Tags that are not there are no
// error.
func (s *Service) RemoveTags(ctx context.Context, project string, kind Kind, id string, remove []TagChange) error {
	return s.changeTags(ctx, project, kind, id, func(tags []Tag) ([]Tag, error) {
		return slices.DeleteFunc(tags, func(t Tag) bool {
			return slices.ContainsFunc(remove, func(r TagChange) bool {
				return r.Key == t.Key && (r.Value == nil || *r.Value == t.Value)
			})
		}), nil
	})
}

func (s *Service) changeTags(ctx context.Context, project string, kind Kind, id string, change func([]Tag) ([]Tag, error)) error {
	return s.objects.change(ctx, func(tx *transaction) error {
		return tx.withMeta(project, kind, id, func(m *Meta) (bool, error) {
			tags, err := change(slices.Clone(m.Tags))
			if err != nil || slices.Equal(tags, m.Tags) {
				return false, err
			}
			m.Tags = tags
			return true, nil
		})
	})
}

// withMeta calls edit with the common part of an object, and has the
// transaction write the object when it says that it changed something.
func (tx *transaction) withMeta(project string, kind Kind, id string, edit func(*Meta) (changed bool, err error)) error {
	switch kind {
	case KindGateway:
		g, err := tx.gateway(project, id)
		if err != nil {
			return err
		}
		if changed, err := edit(&g.Meta); err != nil || !changed {
			return err
		}
		return tx.putGateway(g)
	case KindCustomerGateway:
		c, err := tx.customerGateway(project, id)
		if err != nil {
			return err
		}
		if changed, err := edit(&c.Meta); err != nil || !changed {
			return err
		}
		return tx.putCustomerGateway(c)
	case KindConnection:
		c, err := get(tx.ctx, tx.objects.connections, project, id)
		if err != nil {
			return err
		}
		if changed, err := edit(&c.Meta); err != nil || !changed {
			return err
		}
		return put(tx, tx.objects.connections, c.Meta, c)
	case KindP2CGateway:
		g, err := tx.p2cGateway(project, id)
		if err != nil {
			return err
		}
		if changed, err := edit(&g.Meta); err != nil || !changed {
			return err
		}
		return tx.putP2CGateway(g)
	default:
		return NotFound()
	}
}

// resources returns the common part of the objects of a kind, newest first.
func (s *Service) resources(ctx context.Context, project string, kind Kind) ([]Meta, error) {
	if err := validProject(project); err != nil {
		return nil, err
	}
	tx := s.read(ctx)
	var all []Meta
	switch kind {
	case KindGateway:
		list, err := tx.gateways(project)
		if err != nil {
			return nil, err
		}
		all = metas(list, func(g *Gateway) Meta { return g.Meta })
	case KindCustomerGateway:
		list, err := tx.customerGateways(project)
		if err != nil {
			return nil, err
		}
		all = metas(list, func(c *CustomerGateway) Meta { return c.Meta })
	case KindConnection:
		list, err := tx.connections(project)
		if err != nil {
			return nil, err
		}
		all = metas(list, func(c *Connection) Meta { return c.Meta })
	case KindP2CGateway:
		list, err := tx.p2cGateways(project)
		if err != nil {
			return nil, err
		}
		all = metas(list, func(g *P2CGateway) Meta { return g.Meta })
	default:
		return nil, NotFound()
	}
	newestFirst(all, func(m *Meta) time.Time { return m.CreatedAt })
	return all, nil
}
